package daemon_test

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/registrytest"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// shelf is a node, and an image of three layers that an archive and a registry have.
type shelf struct {
	*node
	registry *registrytest.Server
	image    v1.Image
	archive  []byte
	ref      string // in the registry

	answered bool // the call before the crash was
}

// tarOf makes a tar of files. Directories are left out: a layer has to take them from the one below.
func tarOf(t *testing.T, names map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, data := range names {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	s := &shelf{node: newNode(t)}
	s.cfg.ImageLowSpace = "0" // nothing is collected by itself, however little the test's disk has
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH,
		RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		t.Fatal(err)
	}
	big := make([]byte, 600<<10)
	rand.Read(big) // never fails
	for _, names := range []map[string][]byte{{"etc/lower": []byte("1")}, {"big": big}, {"etc/upper": []byte("2")}} {
		data := tarOf(t, names)
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(data)), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := tarball.Write(name.MustParseReference("app:1"), img, &b); err != nil {
		t.Fatal(err)
	}
	s.image, s.archive = img, b.Bytes()
	s.start()
	return s
}

// serve starts a registry on another host, and pushes the image to it.
func (s *shelf) serve() {
	s.t.Helper()
	s.stop()
	if err := s.Do(s.outside(), func() error {
		s.registry = registrytest.Serve(s.t, registrytest.Options{Address: "192.0.2.2:0"})
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
	s.ref = s.registry.Host + "/app:1"
	s.cfg.RegistryDirs = s.t.TempDir()
	registrytest.Write(s.t, fmt.Appendf(nil, "server = %q\n", s.registry.URL), s.cfg.RegistryDirs, s.registry.Host,
		"hosts.toml")
	s.start()
	for _, do := range []func(*node) error{s.load, s.tag(s.ref), s.push, s.gone} {
		if err := do(s.node); err != nil {
			s.t.Fatal(err)
		}
	}
}

// last reads a stream to its end.
func last[T any](s grpc.ServerStreamingClient[T], err error) (out []*T, _ error) {
	for err == nil {
		var m *T
		if m, err = s.Recv(); err == nil {
			out = append(out, m)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return out, err
}

func (s *shelf) load(n *node) error {
	stream, err := n.client.Images.Load(n.t.Context())
	if err != nil {
		return err
	}
	for data := s.archive; len(data) > 0; {
		part := data[:min(len(data), 64<<10)]
		data = data[len(part):]
		if stream.Send(&apiv1.LoadRequest{Data: part}) != nil {
			break // the answer says why
		}
	}
	_, err = stream.CloseAndRecv()
	return err
}

func (s *shelf) pull(n *node) error {
	_, err := last(n.client.Images.Pull(n.t.Context(), &apiv1.PullRequest{Reference: s.ref}))
	return err
}

func (s *shelf) push(n *node) error {
	_, err := last(n.client.Images.Push(n.t.Context(), &apiv1.PushRequest{Reference: s.ref}))
	return err
}

func (s *shelf) tag(ref string) func(*node) error {
	return func(n *node) error {
		_, err := n.client.Images.Tag(n.t.Context(), &apiv1.TagImageRequest{Source: "app:1", Target: ref})
		return err
	}
}

func (s *shelf) importMine(n *node) error {
	return n.importTar("mine:1", tarOf(n.t, map[string][]byte{"etc/mine": []byte("3")}))
}

// importTar makes an image of a small root filesystem.
func (n *node) importTar(ref string, data []byte) error {
	stream, err := n.client.Images.Import(n.t.Context())
	if err != nil {
		return err
	}
	for _, r := range []*apiv1.ImportRequest{
		{Message: &apiv1.ImportRequest_Options{Options: &apiv1.ImportOptions{Reference: ref}}},
		{Message: &apiv1.ImportRequest_Data{Data: data}},
	} {
		if stream.Send(r) != nil {
			break // the answer says why
		}
	}
	_, err = stream.CloseAndRecv()
	return err
}

// create makes the container that is committed.
func (s *shelf) create(n *node) error {
	_, err := n.client.Containers.Create(n.t.Context(), &apiv1.CreateContainerRequest{
		Spec: &apiv1.ContainerSpec{Name: "box", Image: "app:1", Command: []string{"true"}}})
	return err
}

func (s *shelf) commit(n *node) error {
	_, err := n.client.Containers.Commit(n.t.Context(), &apiv1.CommitContainerRequest{Container: "box",
		Reference: "mine:1"})
	return err
}

func (s *shelf) remove(n *node) error {
	_, err := n.client.Images.Remove(n.t.Context(), &apiv1.RemoveImageRequest{Image: "app:1"})
	return err
}

// damage changes a file of a layer.
func (s *shelf) damage(n *node) error {
	found, err := filepath.Glob(filepath.Join(n.root, "images/layers/*/fs/etc/lower"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("the file of a layer is %v: %w", found, err)
	}
	return os.WriteFile(found[0], []byte("damaged"), 0o600)
}

func (s *shelf) repair(n *node) error {
	_, err := last(n.client.Images.Check(n.t.Context(), &apiv1.CheckImagesRequest{Repair: true}))
	return err
}

// intact wants nothing to be wrong after a crash, and images to be there.
func (s *shelf) intact(refs ...string) func(*node) error {
	return func(n *node) error {
		ctx := n.t.Context()
		st, err := n.client.System.Status(ctx, &apiv1.StatusRequest{})
		if err != nil {
			return err
		}
		for _, line := range strings.Split(n.log.String(), "\n") {
			if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
				n.t.Errorf("netd says: %s", line)
			}
		}
		if len(st.Notices) > 0 {
			n.t.Errorf("netd says: %q", st.Notices)
		}
		found, err := last(n.client.Images.Check(ctx, &apiv1.CheckImagesRequest{}))
		for _, m := range found {
			if d := m.GetDamage(); d != nil {
				n.t.Errorf("found damage: %v", d)
			}
		}
		for _, ref := range refs {
			_, ierr := n.client.Images.Inspect(ctx, &apiv1.InspectImageRequest{Image: ref})
			err = errors.Join(err, ierr)
		}
		return err
	}
}

// promised wants images to be there when the call that brings them in was answered.
func (s *shelf) promised(refs ...string) func(*node) error {
	return func(n *node) error {
		if !s.answered {
			refs = nil
		}
		return s.intact(refs...)(n)
	}
}

// removed wants no image to be there when its removal was answered.
func (s *shelf) removed(n *node) error {
	_, err := n.client.Images.Inspect(n.t.Context(), &apiv1.InspectImageRequest{Image: "app:1"})
	if s.answered && status.Code(err) != codes.NotFound {
		n.t.Errorf("an image that was removed: %v", err)
	}
	return nil
}

// asked notes whether a call is answered before the crash.
func (s *shelf) asked(call func(*node) error) func(*node) error {
	return func(n *node) error {
		err := call(n)
		s.answered = err == nil
		return err
	}
}

// pullAgain wants a pull to fetch nothing that is there.
func (s *shelf) pullAgain(n *node) error {
	m, err := s.image.Manifest()
	if err != nil {
		return err
	}
	before := map[string]int{}
	for _, l := range m.Layers {
		for _, dir := range []string{"ingest", "blobs/sha256"} {
			st, err := os.Stat(filepath.Join(n.root, "images", dir, l.Digest.Hex))
			if err == nil && st.Size() == l.Size {
				before[l.Digest.Hex] = s.registry.Asked("GET", l.Digest.Hex)
			}
		}
	}
	if err := s.pull(n); err != nil {
		return err
	}
	for hex, asked := range before {
		if s.registry.Asked("GET", hex) != asked {
			n.t.Errorf("blob %s was there, and was fetched again", hex)
		}
	}
	return nil
}

// gone removes all images, and wants nothing to be left of any.
func (s *shelf) gone(n *node) error {
	ctx := n.t.Context()
	containers, err := n.client.Containers.List(ctx, &apiv1.ListContainersRequest{All: true})
	if err != nil {
		return err
	}
	for _, c := range containers.Containers {
		n.removeContainer(c.Id)
	}
	if _, err := n.client.Images.Prune(ctx, &apiv1.PruneImagesRequest{All: true}); err != nil {
		return err
	}
	for _, dir := range []string{"blobs/sha256", "layers", "ingest", "tmp"} {
		left, err := os.ReadDir(filepath.Join(n.root, "images", dir))
		if err != nil || len(left) > 0 {
			n.t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(n.root))
	if err != nil || len(mounts) > 0 {
		n.t.Errorf("mounts are left: %v, %v", mounts, err)
	}
	u, err := n.client.System.DiskUsage(ctx, &apiv1.DiskUsageRequest{})
	if err == nil && (len(u.Images) > 0 || u.ImagesSize+u.Leftovers > 0) {
		err = fmt.Errorf("images still take space: %v", u)
	}
	return err
}

// TestImagesKilledAtEveryStep kills netd before each change of the disk and each commit of records while images come in
// and go.
func TestImagesKilledAtEveryStep(t *testing.T) {
	type change = func(*node) error
	for name, of := range map[string]func(*shelf) crash{
		"pull": func(s *shelf) crash {
			s.serve()
			return crash{do: s.asked(s.pull), least: 20,
				after: []change{s.promised(s.ref), s.pullAgain, s.intact(s.ref), s.gone}}
		},
		"load": func(s *shelf) crash {
			return crash{do: s.asked(s.load), least: 20,
				after: []change{s.promised("app:1"), s.load, s.intact("app:1"), s.gone}}
		},
		"import": func(s *shelf) crash {
			return crash{do: s.asked(s.importMine), least: 9,
				after: []change{s.promised("mine:1"), s.importMine, s.intact("mine:1"), s.gone}}
		},
		"commit": func(s *shelf) crash {
			return crash{before: []change{s.load, s.create}, do: s.asked(s.commit), least: 9,
				after: []change{s.promised("mine:1"), s.intact("app:1"), s.commit, s.intact("mine:1", "app:1"), s.gone}}
		},
		"tag": func(s *shelf) crash {
			return crash{before: []change{s.load}, do: s.asked(s.tag("b:1")), least: 1,
				after: []change{s.promised("b:1"), s.tag("b:1"), s.intact("app:1", "b:1"), s.gone}}
		},
		"remove": func(s *shelf) crash {
			return crash{before: []change{s.load}, do: s.asked(s.remove), least: 15,
				after: []change{s.intact(), s.removed, s.load, s.intact("app:1"), s.gone}}
		},
		"repair": func(s *shelf) crash {
			return crash{before: []change{s.load, s.damage}, do: s.repair, least: 6,
				after: []change{s.repair, s.intact("app:1"), s.gone}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShelf(t)
			s.walkAll(of(s))
		})
	}
}
