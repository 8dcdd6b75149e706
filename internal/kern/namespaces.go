package kern

import (
	"errors"
	"fmt"
	"os"

	"github.com/vethloom/vethloom/internal/kern/netns"
	"github.com/vethloom/vethloom/internal/kern/nftables"
	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// namespaces are those of the fabric and of sandboxes.
type namespaces struct {
	pins netns.Pins
	self *os.File // the fabric's own namespace
}

// NetNSPath is where a namespace can be opened; for the fabric's own, a path that is
// valid in this process.
func (k *namespaces) NetNSPath(ns plan.NetNS) string {
	if ns == "" {
		return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), k.self.Fd())
	}
	return k.pins.Path(ns)
}

// openPin opens a pinned namespace.
func (k *namespaces) openPin(ns plan.NetNS) (*os.File, error) {
	if err := netns.Check(ns); err != nil {
		return nil, err
	}
	path := k.NetNSPath(ns)
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var st unix.Statfs_t
	if unix.Fstatfs(int(file.Fd()), &st) != nil || st.Type != unix.NSFS_MAGIC {
		file.Close()
		return nil, fmt.Errorf("%s is no namespace: %w", path, os.ErrNotExist)
	}
	return file, nil
}

// Identify tells the cookie of the network namespace at a path of somebody else, by which it can be adopted. The error
// is a [plan.NoNamespaceError] where there is none that can be.
func (k *namespaces) Identify(path string) (cookie uint64, err error) {
	f, err := k.openForeign(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return netns.Cookie(f)
}

// Holds reports whether a path still leads to the namespace that was adopted from it. It is false, too, where the
// namespace has not been pinned, and true where that cannot be told: what is removed then would be somebody's.
func (k *namespaces) Holds(ns plan.NetNS, path string) bool {
	pin, err := k.openPin(ns)
	if err != nil {
		return !errors.Is(err, os.ErrNotExist)
	}
	defer pin.Close()
	f, err := netns.OpenForeign(path)
	if err != nil {
		_, none := errors.AsType[*plan.NoNamespaceError](err)
		return !none
	}
	defer f.Close()
	return netns.Same(pin, f)
}

// openForeign opens a namespace that a sandbox may have.
func (k *namespaces) openForeign(path string) (*os.File, error) {
	f, err := netns.OpenForeign(path)
	if err != nil {
		return nil, err
	}
	if netns.Same(f, k.self) {
		f.Close()
		return nil, &plan.NoNamespaceError{Path: path, Reason: "is the host's own"}
	}
	return f, nil
}

// pin makes a namespace, or takes one of somebody else, and pins it. The socket returned is in it.
func (k *namespaces) pin(o plan.Namespace) (*rtnetlink.Conn, error) {
	if o.Path == "" {
		return k.pins.Create(o.Name)
	}
	f, err := k.openForeign(o.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cookie, err := netns.Cookie(f)
	if err != nil {
		return nil, err
	}
	if cookie != o.Cookie {
		return nil, &plan.NoNamespaceError{Path: o.Path, Reason: "is another one than it was"}
	}
	return k.pins.Adopt(o.Name, f)
}

// letGo removes from an adopted namespace what is not removed object by object. That goes on behind the change: the
// kernel waits for all its processors before a table is gone, and most such namespaces go anyway.
func (k *Kernel) letGo(ns plan.NetNS) error {
	if !ns.Adopted() {
		return nil
	}
	f, err := k.openPin(ns)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the namespace: %w", err)
	}
	k.tasks.Go(func() {
		defer f.Close()
		if err := nftables.RemoveNamePort(int(f.Fd())); err != nil && !errors.Is(err, plan.ErrUnsupported) {
			k.log.Warn("what leads questions about names stays in a namespace", "netns", ns, "err", err)
		}
	})
	return nil
}
