package daemon_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/await"
)

// smallRoot puts a node's state on a filesystem of its own.
func (n *node) smallRoot(options string) {
	n.t.Helper()
	if err := unix.Mount("tmpfs", n.root, "tmpfs", 0, options); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		n.stop()
		if err := unix.Unmount(n.root, 0); err != nil {
			n.t.Error(err)
		}
	})
}

// TestSpaceIsCollected lets another program take the space of images, while nobody asks netd for anything.
func TestSpaceIsCollected(t *testing.T) {
	n := newNode(t)
	n.smallRoot("size=64m,mode=755")
	n.cfg.ImageLowSpace, n.cfg.CollectEvery = "32MiB", 20*time.Millisecond
	n.start()
	tar := func(name string) []byte { return tarOf(t, map[string][]byte{name: make([]byte, 1<<20)}) }
	if err := n.importTar("named", tar("a")); err != nil {
		t.Fatal(err)
	}
	if err := n.importTar("", tar("b")); err != nil {
		t.Fatal(err)
	}
	list, err := n.client.Images.List(t.Context(), &apiv1.ListImagesRequest{})
	if err != nil || len(list.Images) != 2 {
		t.Fatalf("with space, images are %v: %v", list, err)
	}
	events, err := n.client.System.Events(t.Context(), &apiv1.EventsRequest{Filters: []string{"type=image"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events.Header(); err != nil { // from here on nothing is missed
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(n.root, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, 40<<20); err != nil {
		t.Fatal(err)
	}
	var said []string
	var freed int64
	for !slices.Contains(said, "collect") {
		e, err := events.Recv()
		if err != nil {
			t.Fatal(err)
		}
		said = append(said, e.Action)
		freed, _ = strconv.ParseInt(e.Attributes["bytes"], 10, 64)
	}
	if said[0] != "remove" || freed < 1<<20 {
		t.Errorf("events are %q, and %d bytes were freed", said, freed)
	}
	if list, err = n.client.Images.List(t.Context(), &apiv1.ListImagesRequest{}); err != nil || len(list.Images) != 1 ||
		!slices.Equal(list.Images[0].References, []string{"named:latest"}) {
		t.Errorf("images are %v: %v", list, err)
	}
}

// TestDiskUsageOfAll measures what an image, a container and a volume take.
func TestDiskUsageOfAll(t *testing.T) {
	n := newNode(t)
	n.start()
	n.image()
	n.run(&apiv1.ContainerSpec{Name: "box", Command: []string{"sh", "-c", `head -c 1000000 /dev/zero >/own
		head -c 2000000 /dev/zero >/data/own
		touch /data/done
		exec sleep 1000`}, Mounts: []*apiv1.Mount{{Source: "data", Target: "/data", Volume: true}}})
	usage := func() *apiv1.DiskUsageResponse {
		t.Helper()
		u, err := n.client.System.DiskUsage(t.Context(), &apiv1.DiskUsageRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	u := usage()
	if len(u.Images) != 1 || len(u.Containers) != 1 || len(u.Volumes) != 1 {
		t.Fatalf("usage is %v", u)
	}
	await.Done(t, "the container has written", func() error {
		_, err := os.Stat(filepath.Join(u.Volumes[0].Volume.Mountpoint, "done"))
		return err
	})
	u = usage()
	i, c, v := u.Images[0], u.Containers[0], u.Volumes[0]
	const slack = 100_000 // directories, the log, and what a block is larger than a file
	near := func(what string, got, want int64) {
		t.Helper()
		if got < want || got > want+slack {
			t.Errorf("%s takes %d bytes, want about %d", what, got, want)
		}
	}
	near("the container", c.Size, 1_000_000)
	near("the volume", v.Size, 2_000_000)
	if c.Name != "box" || c.Status != "running" || !slices.Equal(i.Containers, []string{"box"}) ||
		!slices.Equal(v.Volume.Containers, []string{"box"}) {
		t.Errorf("usage is %v", u)
	}
	if i.Size < 1<<20 || i.Unique != i.Size || i.Shared != 0 || u.ImagesSize != i.Size || u.Leftovers != 0 {
		t.Errorf("the image takes %v of %d, leftovers %d", i, u.ImagesSize, u.Leftovers)
	}
	n.removeContainer("box")
	if u = usage(); len(u.Containers) != 0 || len(u.Images[0].Containers) != 0 || len(u.Volumes) != 1 ||
		len(u.Volumes[0].Volume.Containers) != 0 || u.Volumes[0].Size != v.Size {
		t.Errorf("without the container, usage is %v", u)
	}
}
