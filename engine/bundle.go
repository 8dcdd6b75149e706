package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/engine/rootfile"
	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/engine/snapshot"
)

// logName is the file of the container's output, in its durable directory.
const logName = "log"

func (e *preparer) bundle(l *launch, img image.Image, mounts []snapshot.Mount, binds []shim.Bind) (shim.Bundle, error) {
	s, c := l.rec.Spec, l.c
	add := s.CapAdd
	if s.Privileged {
		add = []string{allCapabilities}
	}
	caps, err := capabilitySet(add, s.CapDrop)
	if err != nil {
		return shim.Bundle{}, err
	}
	if len(mounts) == 0 {
		return shim.Bundle{}, errors.New("the snapshot has no mounts")
	}
	b := shim.Bundle{
		ID: c.id, Hostname: e.hostname(l.rec, l.netns), Root: mounts[len(mounts)-1].Target, RootMounts: mounts,
		Binds:   ordered(binds),
		Process: process(s, img),
		Options: s.Options, Cgroup: e.cgroupOf(c), Caps: caps, Compat: l.compat, IDMap: l.rec.IDMap,
		StateDir: filepath.Join(c.run, "state"), ExitPath: filepath.Join(c.run, exitFile),
		Log: logFile(s, filepath.Join(c.dir, logName)),
	}
	if b.Devices, err = hostDevices(s.Devices); err != nil {
		return shim.Bundle{}, err
	}
	if err := withInit(s, &b); err != nil {
		return shim.Bundle{}, err
	}
	if l.netns != hostNetNS {
		// The namespace may be pinned by a mount that the shim, launched before it
		// was made, does not have: it goes through this process's view.
		b.NetNS = fmt.Sprintf("/proc/%d/root%s", os.Getpid(), l.netns)
	}
	return b, nil
}

// hostname is the wish, with a shared network stack that of its owner, whose
// files are shared too, on the host's network the host's own, or the short ID.
func (e *preparer) hostname(rec record, netns string) string {
	if rec.Spec.Hostname != "" {
		return rec.Spec.Hostname
	}
	hosts, err := os.Hostname()
	if err == nil && rec.Spec.UTSMode == modeHost {
		return hosts
	}
	if rec.Sandbox != "" && rec.Sandbox != rec.ID {
		owner := filepath.Join(e.containersDir(), rec.Sandbox)
		name, err := rootfile.Read(owner, hostnameFile, etcLimit)
		if text := strings.TrimSpace(string(name)); err == nil && validHostname(text) {
			return text
		}
	}
	if err == nil && netns == hostNetNS {
		return hosts
	}
	return cnm.Short(rec.ID)
}

// process is the container's own command.
func process(s Spec, img image.Image) shim.Process {
	p := shim.Process{
		Args: arguments(s, img), Env: mergeEnv(img.Config.Env, s.Env), Cwd: s.WorkDir, User: s.User,
		TTY: s.TTY, Stdin: s.OpenStdin,
	}
	if p.Cwd == "" {
		p.Cwd = img.Config.WorkingDir
	}
	if p.User == "" {
		p.User = img.Config.User
	}
	return p
}

// mergeEnv lets later values of a name replace earlier ones, and a name without
// a value remove it.
func mergeEnv(lists ...[]string) []string {
	var out []string
	for _, kv := range slices.Concat(lists...) {
		name, _, valued := strings.Cut(kv, "=")
		out = slices.DeleteFunc(out, func(other string) bool { return strings.HasPrefix(other, name+"=") })
		if valued {
			out = append(out, kv)
		}
	}
	return out
}
