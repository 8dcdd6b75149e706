package builder

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"
)

// What this program is, called by another name.
const (
	insideName   = "net-build-inside" // the process that becomes buildkitd
	loopbackName = "loopback"         // a CNI plugin that BuildKit asks first
)

// inside is what the process that becomes buildkitd is told.
type inside struct {
	Run        string            // gets a file system of its own
	Files      map[string]string // made there, by path
	Links      map[string]string // symbolic links there, with their targets
	Temporary  string            // directory that is made
	ResolvConf string            // put over /etc/resolv.conf; "": the host's
	Argv       []string
}

// Called does what this program is to do under the name that it was called by. It reports whether there is such a
// thing; if not, it is a build.
func Called(name string) (bool, error) {
	switch filepath.Base(name) {
	case insideName:
		return true, becomeBuildkitd()
	case loopbackName:
		// netd has brought it up when the namespace was put on a network.
		skel.PluginMainFuncs(skel.CNIFuncs{Add: noLink, Del: nothing, Check: nothing}, version.All, "")
		return true, nil
	}
	return false, nil
}

func nothing(*skel.CmdArgs) error { return nil }

func noLink(a *skel.CmdArgs) error {
	var c types.PluginConf
	if err := json.Unmarshal(a.StdinData, &c); err != nil {
		return types.NewError(types.ErrDecodingFailure, err.Error(), "")
	}
	return types.PrintResult(&types100.Result{CNIVersion: types100.ImplementedSpecVersion}, c.CNIVersion)
}

// becomeBuildkitd makes this process, which is the first of its namespaces, buildkitd. It waits until it is told how.
func becomeBuildkitd() error {
	told := os.NewFile(3, "instructions")
	var in inside
	if err := json.NewDecoder(told).Decode(&in); err != nil {
		return fmt.Errorf("read what to do: %w", err)
	}
	told.Close()
	if err := in.mount(); err != nil {
		return err
	}
	env := []string{"TMPDIR=" + in.Temporary}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "NOTIFY_SOCKET=") && !strings.HasPrefix(v, "TMPDIR=") {
			env = append(env, v)
		}
	}
	return fmt.Errorf("run %s: %w", in.Argv[0], syscall.Exec(in.Argv[0], in.Argv, env))
}

// mount makes the mounts of this namespace, and the files on them.
func (in inside) mount() error {
	for _, m := range []struct {
		source, at, kind string
		flags            uintptr
		data             string
	}{
		// Namespaces that netd lets go of must go here, too; what is mounted here is nobody else's.
		{"", "/", "", unix.MS_REC | unix.MS_SLAVE, ""},
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"tmpfs", in.Run, "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0700"},
	} {
		if err := unix.Mount(m.source, m.at, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	if err := os.MkdirAll(in.Temporary, 0o700); err != nil {
		return fmt.Errorf("make the directory of temporary files: %w", err)
	}
	for name, target := range in.Links {
		path := filepath.Join(in.Run, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("make the directory of plugins: %w", err)
		}
		if err := os.Symlink(target, path); err != nil {
			return fmt.Errorf("link a plugin: %w", err)
		}
	}
	for name, text := range in.Files {
		if err := os.WriteFile(filepath.Join(in.Run, name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("write buildkitd's settings: %w", err)
		}
	}
	if in.ResolvConf == "" {
		return nil
	}
	path := filepath.Join(in.Run, "resolv.conf")
	if err := os.WriteFile(path, []byte(in.ResolvConf), 0o644); err != nil {
		return fmt.Errorf("write buildkitd's resolv.conf: %w", err)
	}
	if err := unix.Mount(path, "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount /etc/resolv.conf: %w; make the file if there is none", err)
	}
	return nil
}
