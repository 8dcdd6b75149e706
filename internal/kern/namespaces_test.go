package kern_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// foreignNetNS makes a namespace that somebody else has pinned, and returns the path and what removes it.
func foreignNetNS(tb testing.TB, env *kerntest.Env) (path string, remove func()) {
	tb.Helper()
	path = filepath.Join(tb.TempDir(), "cni-1")
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		tb.Fatal(err)
	}
	env.Run("unshare", "--net="+path, "true")
	remove = func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.ENOENT) {
			tb.Errorf("unmount %s: %v", path, err)
		}
		os.Remove(path)
	}
	tb.Cleanup(remove)
	return path, remove
}

// endpointIn is a namespace with all that a pair brings with it.
func endpointIn(ns plan.Namespace) plan.State {
	const owner = "endpoint/0123456789ab"
	return plan.State{
		Namespaces: []plan.Namespace{ns},
		Links: []plan.Link{{Name: "vle-01234567", Owner: owner, Kind: plan.Veth, MTU: 1400, Up: true,
			Peer: plan.VethPeer{NS: ns.Name, Name: "eth0", MAC: plan.MAC{2, 1, 2, 3, 4, 5}}}},
		Addrs: []plan.Addr{{NS: ns.Name, Link: "eth0", Prefix: prefix("10.9.0.2/24")},
			{NS: ns.Name, Link: "eth0", Prefix: prefix("fd09::2/64")}},
		Routes:   []plan.Route{{NS: ns.Name, Dst: prefix("0.0.0.0/0"), Via: addr("10.9.0.1"), Link: "eth0"}},
		Policies: []plan.PolicyRule{{NS: ns.Name, Priority: 32000, From: prefix("10.9.0.2/32"), Table: 11700}},
		Sysctls:  []plan.Sysctl{{NS: ns.Name, Path: "ipv4/conf/eth0/arp_notify", Value: "1"}},
	}
}

// A namespace of somebody else gets what a sandbox has, is repaired, and goes on without us.
func TestAdoptedNamespace(t *testing.T) {
	env := kerntest.New(t)
	path, remove := foreignNetNS(t, env)
	k := open(t, env)
	cookie, err := k.Identify(path)
	if err != nil || cookie == 0 {
		t.Fatalf("cookie %d: %v", cookie, err)
	}
	ns := plan.Namespace{Name: plan.AdoptedNetNS("0123456789ab"), Path: path, Cookie: cookie}
	want := endpointIn(ns)
	converge(t, k, want)
	settled(t, k, want)
	if !k.Holds(ns.Name, path) {
		t.Error("the pin and the path are not one namespace")
	}
	inside := func(args ...string) string {
		return env.Run("nsenter", append([]string{"--net=" + path, "--"}, args...)...)
	}
	got := inside("ip", "-br", "addr")
	if !strings.Contains(got, "10.9.0.2/24") || !strings.Contains(got, "127.0.0.1") {
		t.Errorf("addresses in the namespace:\n%s", got)
	}
	inside("ip", "addr", "flush", "dev", "eth0")
	inside("ip", "link", "add", "name", "theirs", "type", "bridge")
	converge(t, k, want)
	settled(t, k, want)

	converge(t, k, plan.State{})
	got = inside("ip", "-br", "link") + inside("ip", "rule") + inside("ip", "route", "show", "table", "all")
	for _, ours := range []string{"eth0", "11700", "10.9.0"} {
		if strings.Contains(got, ours) {
			t.Errorf("%s is still in the namespace:\n%s", ours, got)
		}
	}
	if !strings.Contains(got, "theirs") {
		t.Errorf("the link of somebody else is gone:\n%s", got)
	}
	converge(t, k, want)
	remove()
	if k.Holds(ns.Name, path) {
		t.Error("the path is gone, and said to lead to the namespace")
	}
	if _, err := k.Identify(path); !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("a path that is gone: %v", err)
	}
}

// A process that cannot open any more files does not know that a namespace is gone.
func TestAdoptedNamespaceWithoutDescriptors(t *testing.T) {
	env := kerntest.New(t)
	path, _ := foreignNetNS(t, env)
	k := open(t, env)
	cookie, err := k.Identify(path)
	if err != nil {
		t.Fatal(err)
	}
	ns := plan.Namespace{Name: plan.AdoptedNetNS("0123456789ab"), Path: path, Cookie: cookie}
	converge(t, k, endpointIn(ns))
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	limit := func(r unix.Rlimit) {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
			t.Fatal(err)
		}
	}
	limit(unix.Rlimit{Cur: 0, Max: was.Max})
	holds := k.Holds(ns.Name, path)
	_, err = k.Identify(path)
	limit(was)
	if _, none := errors.AsType[*plan.NoNamespaceError](err); !holds || none || !errors.Is(err, unix.EMFILE) {
		t.Errorf("without descriptors: holds %v, and %v; want that it holds, and too many open files", holds, err)
	}
}

// What is at a path later is not what was adopted.
func TestAdoptedNamespaceIsAnotherOne(t *testing.T) {
	env := kerntest.New(t)
	path, remove := foreignNetNS(t, env)
	k := open(t, env)
	cookie, err := k.Identify(path)
	if err != nil {
		t.Fatal(err)
	}
	remove()
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	env.Run("unshare", "--net="+path, "true")
	ns := plan.Namespace{Name: plan.AdoptedNetNS("0123456789ab"), Path: path, Cookie: cookie}
	err = k.Apply(context.Background(), []plan.Op{{Verb: plan.Create, Object: ns}})
	if no, ok := errors.AsType[*plan.NoNamespaceError](err); !ok || !strings.Contains(no.Error(), "another one") {
		t.Errorf("another namespace at the path: %v", err)
	}
}

// A path is opened only where a network namespace is.
func TestNamespacesThatAreNotAdopted(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	dir := t.TempDir()
	fifo, file, link := filepath.Join(dir, "fifo"), filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := errors.Join(unix.Mkfifo(fifo, 0o600), os.WriteFile(file, []byte("x"), 0o600),
		os.Symlink("link", link)); err != nil {
		t.Fatal(err)
	}
	own := k.NetNSPath("")
	for path, want := range map[string]string{
		fifo: "is no namespace", file: "is no namespace", link: "cannot be opened", dir: "is no namespace",
		"":                  "does not exist",
		own:                 "is the host's own",
		dir + "/none":       "does not exist",
		file + "/x":         "does not exist",
		"/proc/self/ns/mnt": "of another kind",
	} {
		_, err := k.Identify(path)
		if no, ok := errors.AsType[*plan.NoNamespaceError](err); !ok || !strings.Contains(no.Reason, want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}
