package daemon_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/plugin/attach"
	"golang.org/x/sys/unix"
)

// others are containers of another engine, by their IDs. Each has a namespace of that name in the folder.
type others struct {
	*node
	dir string
}

// add makes a container's namespace.
func (o *others) add(id string) {
	o.t.Helper()
	path := filepath.Join(o.dir, id)
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		o.t.Fatal(err)
	}
	o.Run("unshare", "--net="+path, "true")
}

// remove takes a namespace away, as its engine does, or the end of the kernel.
func (o *others) remove(id string) {
	o.t.Helper()
	path := filepath.Join(o.dir, id)
	if err := errors.Join(unix.Unmount(path, unix.MNT_DETACH), os.Remove(path)); err != nil {
		o.t.Error(err)
	}
}

// call asks netd about a container.
func (o *others) call(call attach.Call, id string, ports ...attach.Port) (*attach.Answer, error) {
	return attach.Do(o.t.Context(), o.socket(), attach.Request{Call: call, Key: attach.Key{Engine: "cni", Container: id,
		Interface: "eth0"}, NetNS: filepath.Join(o.dir, id), Network: "web", Origin: "web", Ports: ports})
}

func (o *others) socket() string { return filepath.Join(o.RunDir, "attach.sock") }

// left are the detaches that were left for netd.
func (o *others) left() int {
	o.t.Helper()
	keys, err := attach.Left(attach.LaterDir(o.socket()))
	if err != nil {
		o.t.Fatal(err)
	}
	return len(keys)
}

// A reboot takes the containers of other engines with it, and all that they had. What was left to be detached before it
// does nothing to a container that has come since, by the same ID and at the same path.
func TestRebootWithContainersOfOthers(t *testing.T) {
	n := newNode(t)
	n.cfg.BootID = "first"
	n.start()
	n.network("web", func(r *apiv1.CreateNetworkRequest) { r.Pools = []*apiv1.Pool{{Subnet: "10.70.0.0/29"}} })
	o := &others{node: n, dir: t.TempDir()}
	must := func(call attach.Call, id string, ports ...attach.Port) {
		t.Helper()
		if _, err := o.call(call, id, ports...); err != nil {
			t.Fatalf("%s %s: %v", call, id, err)
		}
	}
	for _, id := range []string{"a", "b", "c", "d", "e"} {
		o.add(id)
		t.Cleanup(func() { o.remove(id) })
	}
	port := attach.Port{Proto: "tcp", HostPort: 8080, Port: 80}
	must(attach.Attach, "a", port)
	must(attach.Attach, "b")
	must(attach.Reserve, "c")
	must(attach.Attach, "d")
	must(attach.Reserve, "e")
	n.kill()
	for _, id := range []string{"a", "c", "d"} {
		if err := attach.Later(o.socket(), attach.Key{Engine: "cni", Container: id, Interface: "eth0"}); err != nil {
			t.Fatal(err)
		}
	}
	n.kernelCut()
	for _, id := range []string{"a", "b", "c", "d", "e"} {
		o.remove(id)
		o.add(id)
	}

	n.cfg.BootID = "second"
	n.start()
	must(attach.Attach, "a", port) // at once: the detach of it may not have been looked at yet
	await.True(t, "no detach is left", func() bool { return o.left() == 0 })
	must(attach.Check, "a")
	n.converged()
	if _, err := o.call(attach.Check, "b"); err == nil {
		t.Error("the container of before the reboot is attached")
	}
	// Four addresses remain of the /29 for these four.
	must(attach.Attach, "b")
	must(attach.Reserve, "c")
	must(attach.Attach, "d")
	must(attach.Reserve, "e")
	n.converged()
	for _, id := range []string{"a", "b", "c", "d", "e"} {
		must(attach.Detach, id)
	}
	n.removeNetwork("web")
	n.idle()
	if got := n.Sh(fmt.Sprintf("nsenter --net=%s/a ip -o link | wc -l", o.dir)); got != "1\n" {
		t.Errorf("links that stay in the namespace: %s", got)
	}
}
