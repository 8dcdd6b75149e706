package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/shim"
)

// The modes of namespaces, besides a container's.
const (
	modeHost      = "host"
	modePrivate   = "private"
	modeShareable = "shareable"
	modeNone      = "none"
)

// checkNamespaces refuses modes that there are not, and wishes that cannot be met in namespaces of others.
func checkNamespaces(s *Spec) error {
	for _, m := range []struct {
		field  string
		mode   *string
		others []string // besides the host's and a private one
		joins  bool
	}{
		{"pid", &s.PidMode, nil, true}, {"ipc", &s.IpcMode, []string{modeShareable, modeNone}, true},
		{"uts", &s.UTSMode, nil, false}, {"cgroupns", &s.CgroupNSMode, nil, false},
	} {
		if *m.mode == modePrivate {
			*m.mode = ""
		}
		ref, join := strings.CutPrefix(*m.mode, joinPrefix)
		all := append([]string{modeHost, modePrivate}, m.others...)
		switch {
		case *m.mode == "" || slices.Contains(all, *m.mode) || m.joins && join && ref != "":
		case m.joins:
			return invalid(m.field, *m.mode, "unknown mode", "use "+strings.Join(all, ", ")+" or container:NAME")
		default:
			return invalid(m.field, *m.mode, "unknown mode", "use "+strings.Join(all, " or "))
		}
	}
	return errors.Join(checkOthersNames(*s), checkOthersIPC(*s), checkOwners(*s))
}

func checkOthersNames(s Spec) error {
	switch {
	case s.Domainname != "" && !validHostname(s.Domainname):
		return invalid("domainname", s.Domainname, "not a domain name", "use at most 64 letters, digits, '-' and '.'")
	case s.UTSMode == modeHost && s.Hostname != "":
		return invalid("hostname", s.Hostname, "with uts host, it is the host's", "leave out one of the two")
	case s.UTSMode == modeHost && s.Domainname != "":
		return invalid("domainname", s.Domainname, "with uts host, it is the host's", "leave out one of the two")
	}
	return nil
}

func checkOthersIPC(s Spec) error {
	shared := s.IpcMode == modeHost || strings.HasPrefix(s.IpcMode, joinPrefix)
	if !shared {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(s.Sysctls)) {
		if strings.HasPrefix(name, "fs.mqueue.") || slices.Contains(ipcSysctls, name) {
			return invalid("sysctl", name, "with ipc "+s.IpcMode+", it is another's", "set it there, or leave it out")
		}
	}
	if s.ShmSize != 0 {
		return invalid("shm-size", fmt.Sprint(s.ShmSize), "with ipc "+s.IpcMode+", /dev/shm is another's",
			"leave out one of the two")
	}
	return nil
}

// checkOwners refuses namespaces that are not of the container's user namespace: it could mount nothing of theirs.
func checkOwners(s Spec) error {
	if s.UserNS != "auto" {
		return nil
	}
	for _, m := range []struct{ field, mode string }{{"pid", s.PidMode}, {"ipc", s.IpcMode}, {"uts", s.UTSMode}} {
		if m.mode == modeHost || strings.HasPrefix(m.mode, joinPrefix) {
			return invalid(m.field, m.mode, "a container with users of its own cannot have it",
				"leave out one of --"+m.field+" and --userns")
		}
	}
	return nil
}

// resolveJoins puts IDs in the place of the names of those whose namespaces a container is to have, so that the
// container of that name tomorrow is not meant. The caller holds the mutex.
func (e *creator) resolveJoins(s *Spec) error {
	for field, mode := range map[string]*string{"pid": &s.PidMode, "ipc": &s.IpcMode} {
		ref, join := strings.CutPrefix(*mode, joinPrefix)
		if !join {
			continue
		}
		target := e.containers[e.names[strings.TrimPrefix(ref, "/")]]
		if target == nil {
			target = e.byID(ref)
		}
		if target == nil {
			return notFound(ref)
		}
		if field == "ipc" && target.rec.Spec.IpcMode != modeShareable {
			return invalid("ipc", *mode, "that container shares its IPC namespace with nobody",
				"create it with --ipc shareable")
		}
		*mode = joinPrefix + target.id
	}
	return nil
}

// namespaces finds whose namespaces a container is to have. Those of others stay open, with what is returned, until the
// container has them.
func (e *starter) namespaces(ctx context.Context, s Spec) (shim.Namespaces, []*os.File, error) {
	ns := shim.Namespaces{PID: s.PidMode, IPC: s.IpcMode, UTS: s.UTSMode, Cgroup: s.CgroupNSMode}
	switch s.IpcMode {
	case modeShareable:
		ns.IPC = ""
	case modeNone:
		ns.IPC, ns.Shm = "", shim.NoNamespace
	case modeHost:
		ns.Shm = shim.HostNamespace
	}
	var open []*os.File
	join := func(field, mode string, to []*string, kinds ...string) error {
		ref, join := strings.CutPrefix(mode, joinPrefix)
		if !join {
			return nil
		}
		files, err := e.openNamespaces(ctx, field, ref, kinds...)
		open = append(open, files...)
		for i, f := range files {
			*to[i] = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
		}
		return err
	}
	err := errors.Join(join("pid", s.PidMode, []*string{&ns.PID}, "pid"),
		join("ipc", s.IpcMode, []*string{&ns.IPC, &ns.Shm}, "ipc", "mnt"))
	return ns, open, err
}

func (e *starter) openNamespaces(ctx context.Context, field, ref string, kinds ...string) ([]*os.File, error) {
	target, rec, err := e.glance(ctx, ref)
	if err != nil {
		return nil, err
	}
	if !isLive(rec.Status) || rec.Pid == 0 {
		return nil, &cnm.Error{Kind: cnm.ErrForbidden, Cause: ErrNotRunning, Field: field, Value: joinPrefix + ref,
			Reason: "that container does not run: it has no namespace to share", Remedy: "start it first"}
	}
	files, err := shim.OpenNamespaces(rec.Pid, e.cgroupOf(target), kinds...)
	if err != nil {
		return nil, fmt.Errorf("share namespaces with container %s: %w", rec.Spec.Name, err)
	}
	return files, nil
}
