package engine

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/engine/rootfile"
	"github.com/vethloom/vethloom/engine/shim"
)

// parentFile is beside a container's run state where its cgroup is not in netd's: the cgroup of one without a record
// is found by it.
const parentFile = "cgroup-parent"

// The longest path of a cgroup, and the longest name in one.
const (
	maxCgroupPath = 1024
	maxCgroupName = 255
)

// cgroupOf is a container's cgroup.
func (e *records) cgroupOf(c *container) string {
	return filepath.Join(e.cgroupParent(e.snapshot(c).Spec.CgroupParent), c.id)
}

// cgroupParent is the cgroup that a wish means: a relative one is below netd's.
func (e *records) cgroupParent(wish string) string {
	if path.IsAbs(wish) {
		return path.Clean(wish)
	}
	return filepath.Join(e.cgroup, wish)
}

// writeParent leaves word of the cgroup in the run directory.
func (e *records) writeParent(run, wish string) error {
	if wish == "" {
		return nil
	}
	return os.WriteFile(filepath.Join(run, parentFile), []byte(e.cgroupParent(wish)), 0o600)
}

// cgroupLeft is the cgroup of a container of which only the run directory is left.
func (e *records) cgroupLeft(run string) (string, error) {
	parent, err := rootfile.Read(run, parentFile, maxCgroupPath)
	if errors.Is(err, fs.ErrNotExist) {
		return filepath.Join(e.cgroup, filepath.Base(run)), nil
	}
	return filepath.Join(string(parent), filepath.Base(run)), err
}

// checkCgroupParent refuses cgroups that netd may not make others in.
func (e *creator) checkCgroupParent(wish string) error {
	refuse := func(reason, remedy string) error { return invalid("cgroup-parent", wish, reason, remedy) }
	if wish == "" {
		return nil
	}
	names := strings.Split(strings.Trim(wish, "/"), "/")
	if slices.Contains(names, "..") || slices.Contains(names, ".") || slices.Contains(names, "") {
		return refuse("not the name of a cgroup below the top", "write /NAME/NAME, or NAME for one below netd's")
	}
	for _, n := range names {
		if c, err := e.find(n); err == nil && c.id == n {
			return refuse("container "+e.snapshot(c).Spec.Name+" has that cgroup, which goes with it", "choose another")
		}
		if len(n) > maxCgroupName || strings.ContainsAny(n, "\n\x00") {
			return refuse("no cgroup can have that name", "use letters, digits, '-', '_' and '.'")
		}
	}
	parent := e.cgroupParent(wish)
	if len(parent) > maxCgroupPath-maxCgroupName {
		return refuse("too long", "use a shorter one")
	}
	if may := shim.DelegatedCgroup(); path.IsAbs(wish) && may != "/" && !strings.HasPrefix(parent, may+"/") {
		return refuse("netd may make cgroups in "+may+" only", "choose one in there, or a relative one")
	}
	for dir := parent; dir != "/"; dir = path.Dir(dir) {
		if shim.CgroupFile(dir) {
			return refuse(dir+" is a file of the kernel", "choose another name")
		}
	}
	return nil
}
