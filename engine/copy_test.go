package engine_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/shim/shimtest"
	"github.com/vethloom/vethloom/internal/await"
)

// entry is one of a tar.
type entry struct {
	tar.Header
	text string
}

func tarOf(t testing.TB, entries ...entry) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e.Size = int64(len(e.text))
		if e.Mode == 0 {
			e.Mode = 0o644
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func file(name, text string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Uid: 7, Gid: 8}, text}
}

// out copies out, and returns the entries of the tar by name.
func (w *world) out(ref, path string) (engine.PathStat, map[string]entry, error) {
	w.t.Helper()
	var b bytes.Buffer
	var st engine.PathStat
	err := w.e.CopyOut(w.t.Context(), ref, path, func(s engine.PathStat) error { st = s; return nil }, &b)
	if err != nil {
		return st, nil, err
	}
	got := map[string]entry{}
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return st, got, nil
		}
		if err != nil {
			w.t.Fatalf("copy %s out: %v", path, err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			w.t.Fatal(err)
		}
		got[h.Name] = entry{*h, string(text)}
	}
}

func (w *world) in(ref, path string, o engine.CopyInOptions, entries ...entry) error {
	w.t.Helper()
	return w.e.CopyIn(w.t.Context(), ref, path, o, tarOf(w.t, entries...))
}

func namesIn(got map[string]entry) string {
	var out []string
	for name := range got {
		out = append(out, name)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// states are containers that files are copied of: a new one, one that runs, one that is paused and one that has ended,
// each with user IDs of the host and of its own.
func states(t *testing.T, w *world, s engine.Spec, do func(t *testing.T, c engine.Container)) {
	t.Helper()
	for _, users := range []string{"", "auto"} {
		for _, state := range []string{"created", "running", "paused", "exited"} {
			t.Run(state+" "+users, func(t *testing.T) {
				s.UserNS, s.Command = users, []string{"sleep", "1000"}
				for i, m := range s.Mounts {
					if m.Volume {
						s.Mounts = slices.Clone(s.Mounts)
						s.Mounts[i].Source = "v-" + state + users
					}
				}
				if state == "exited" {
					s.Command = []string{"true"}
				}
				c := w.create(s)
				if state != "created" {
					if err := w.e.Start(t.Context(), c.ID); err != nil {
						t.Fatal(err)
					}
				}
				switch state {
				case "paused":
					if err := w.e.Pause(t.Context(), c.ID); err != nil {
						t.Fatal(err)
					}
				case "exited":
					if _, err := w.e.Wait(t.Context(), c.ID, "", nil); err != nil {
						t.Fatal(err)
					}
				}
				do(t, c)
				if _, err := w.e.Remove(t.Context(), c.ID, true, true); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestCopy(t *testing.T) {
	shimtest.Copier(t)
	w := newWorld(t)
	if err := os.Symlink("../etc/plain", filepath.Join(w.images.root, "data/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/tmp/../data", filepath.Join(w.images.root, "dir")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(w.images.root, "data/fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	host := t.TempDir()
	shimtest.Write(t, filepath.Join(host, "bound"), "of the host")
	spec := engine.Spec{Mounts: []engine.Mount{{Source: host, Target: "/host/here", ReadOnly: true},
		{Source: "v", Target: "/data", Volume: true}}}
	states(t, w, spec, func(t *testing.T, c engine.Container) { copyOneIn(t, w, c); copyOneOut(t, w, c) })
}

func copyOneOut(t *testing.T, w *world, c engine.Container) {
	for path, want := range map[string]struct {
		name, link, entries string
		mode                fs.FileMode
	}{
		"/data/seed":       {"seed", "", "seed", 0},
		"data/seed":        {"seed", "", "seed", 0},
		"/data/link":       {"link", "/etc/plain", "link", fs.ModeSymlink},
		"/data":            {"data", "", "data/ data/fifo data/link data/made data/seed", fs.ModeDir},
		"/data/":           {"data", "", "data/ data/fifo data/link data/made data/seed", fs.ModeDir},
		"/data/.":          {".", "", "./ ./fifo ./link ./made ./seed", fs.ModeDir},
		"/dir":             {"dir", "/data", "dir", fs.ModeSymlink},
		"/dir/.":           {".", "", "./ ./fifo ./link ./made ./seed", fs.ModeDir},
		"/dir/seed":        {"seed", "", "seed", 0},
		"/../../data/seed": {"seed", "", "seed", 0},
		"/host/here/bound": {"bound", "", "bound", 0},
		"/data/fifo":       {"fifo", "", "fifo", fs.ModeNamedPipe},
	} {
		st, got, err := w.out(c.ID, path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if st.Name != want.name || st.LinkTarget != want.link || st.Mode.Type() != want.mode ||
			namesIn(got) != want.entries {
			t.Errorf("%s: %+v with %s, want %+v", path, st, namesIn(got), want)
		}
		again, err := w.e.StatPath(t.Context(), c.ID, path)
		if err != nil || !again.Modified.Equal(st.Modified) || again.Name != st.Name || again.Mode != st.Mode {
			t.Errorf("stat %s: %+v, %v, want %+v", path, again, err, st)
		}
	}
	_, got, err := w.out(c.ID, "/data/seed")
	if e := got["seed"]; err != nil || e.text != "from the image\n" || e.Uid != 0 || e.Gid != 0 {
		t.Errorf("%+v, %v", e, err)
	}
	for _, path := range []string{"/none", "/data/seed/x", "/none/."} {
		want := "Could not find the file " + path + " in container " + c.Spec.Name
		if _, _, err := w.out(c.ID, path); !errors.Is(err, cnm.ErrNotFound) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func copyOneIn(t *testing.T, w *world, c engine.Container) {
	if err := w.in(c.ID, "/dir", engine.CopyInOptions{}, file("made", "new")); err != nil {
		t.Fatal(err)
	}
	if err := w.in(c.ID, "/tmp", engine.CopyInOptions{KeepOwners: true}, file("a/b", "deep"),
		entry{tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, ""}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]entry{
		"/data/made": {tar.Header{Uid: 0, Gid: 0}, "new"},
		"/tmp/a/b":   {tar.Header{Uid: 7, Gid: 8}, "deep"},
	} {
		_, got, err := w.out(c.ID, path)
		e := got[filepath.Base(path)]
		if err != nil || e.Uid != want.Uid || e.Gid != want.Gid || e.text != want.text {
			t.Errorf("%s: %+v, %v, want %+v", path, e, err, want)
		}
	}
	if err := w.in(c.ID, "/none", engine.CopyInOptions{}, file("x", "")); !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("into nowhere: %v", err)
	}
	if err := w.in(c.ID, "/data/seed", engine.CopyInOptions{}, file("x", "")); !errors.Is(err, cnm.ErrInvalid) {
		t.Errorf("into a file: %v", err)
	}
	err := w.in(c.ID, "/tmp", engine.CopyInOptions{NoOverwriteDir: true}, file("a", "a file"))
	if !errors.Is(err, cnm.ErrInvalid) || !strings.Contains(err.Error(), "cannot overwrite directory") {
		t.Errorf("a file over a directory: %v", err)
	}
	err = w.in(c.ID, "/host/here", engine.CopyInOptions{}, file("x", ""))
	if !errors.Is(err, cnm.ErrForbidden) || !strings.Contains(err.Error(), "mounted volume is marked read-only") {
		t.Errorf("into a read-only mount: %v", err)
	}
	if err := w.e.CopyIn(t.Context(), c.ID, "/tmp", engine.CopyInOptions{}, strings.NewReader("no tar at all, "+
		strings.Repeat("really ", 200))); !errors.Is(err, cnm.ErrInvalid) {
		t.Errorf("what is no tar: %v", err)
	}
	if err := w.e.CopyIn(t.Context(), c.ID, "/tmp", engine.CopyInOptions{}, io.LimitReader(
		tarOf(t, file("cut", strings.Repeat("short", 1000))), 1000)); !errors.Is(err, cnm.ErrInvalid) {
		t.Errorf("half a tar: %v", err)
	}
}

func TestCopyIntoReadOnlyRoot(t *testing.T) {
	shimtest.Copier(t)
	w := newWorld(t)
	spec := engine.Spec{Options: engine.Options{ReadOnly: true}, Mounts: []engine.Mount{
		{Source: "v", Target: "/data", Volume: true}}}
	states(t, w, spec, func(t *testing.T, c engine.Container) {
		err := w.in(c.ID, "/tmp", engine.CopyInOptions{}, file("x", ""))
		if !errors.Is(err, cnm.ErrForbidden) || !strings.Contains(err.Error(), "container rootfs is marked read-only") {
			t.Errorf("got %v", err)
		}
		if err := w.in(c.ID, "/data", engine.CopyInOptions{}, file("x", "")); err != nil {
			t.Errorf("into a volume: %v", err)
		}
	})
}

// No archive reaches what is outside the directory that it is unpacked in, nor the host.
func TestCopyOfHostileArchives(t *testing.T) {
	shimtest.Copier(t)
	w := newWorld(t)
	victim := t.TempDir()
	link := func(name, to string, kind byte) entry {
		return entry{tar.Header{Name: name, Linkname: to, Typeflag: kind}, ""}
	}
	for name, entries := range map[string][]entry{
		"a path upwards":         {file("../../../../../.."+victim+"/x", "")},
		"through a link":         {link("l", victim, tar.TypeSymlink), file("l/x", "")},
		"through a link upwards": {link("l", "../../../..", tar.TypeSymlink), file("l"+victim+"/x", "")},
		"a hard link":            {link("h", "../../../etc/passwd", tar.TypeLink), file("h", "")},
		"over a link":            {link("l", victim, tar.TypeSymlink), file("l", "")},
	} {
		states(t, w, engine.Spec{}, func(t *testing.T, c engine.Container) {
			err := w.in(c.ID, "/tmp", engine.CopyInOptions{}, entries...)
			// Links that are absolute begin at the directory.
			if err != nil && !errors.Is(err, cnm.ErrInvalid) || err == nil && !strings.Contains(name, "a link") {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	if left, err := os.ReadDir(victim); err != nil || len(left) > 0 {
		t.Errorf("written to the host: %v, %v", left, err)
	}
	device := entry{tar.Header{Name: "disk", Typeflag: tar.TypeBlock, Devmajor: 7, Devminor: 200}, ""}
	for users, made := range map[string]bool{"": true, "auto": false} { // as with Docker
		c := w.start(engine.Spec{Command: []string{"sleep", "1000"}, UserNS: users})
		if err := w.in(c.ID, "/tmp", engine.CopyInOptions{}, device); err != nil {
			t.Error(err)
		}
		_, err := w.e.StatPath(t.Context(), c.ID, "/tmp/disk")
		if got := err == nil; got != made || err != nil && !errors.Is(err, cnm.ErrNotFound) {
			t.Errorf("user namespace %q: a device is made: %v, %v", users, got, err)
		}
		if got := w.exec(c.ID, "dd", "if=/tmp/disk", "count=1"); got.Code == 0 {
			t.Errorf("and it works: %+v", got)
		}
	}
}

// What a container has of the kernel is not copied, and what is copied in is there for it.
func TestCopyWithARunningContainer(t *testing.T) {
	shimtest.Copier(t)
	w := newWorld(t)
	c := w.start(engine.Spec{Command: []string{"sleep", "1000"}, Mounts: []engine.Mount{
		{Target: "/memory", Tmpfs: &engine.Tmpfs{}}}})
	for _, dir := range []string{"/proc", "/sys"} {
		_, got, err := w.out(c.ID, dir)
		if err != nil || namesIn(got) != dir[1:]+"/" {
			t.Errorf("%s has %s, %v", dir, namesIn(got), err)
		}
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := io.Copy(z, tarOf(t, file("script", "copied"))); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.e.CopyIn(t.Context(), c.ID, "/memory", engine.CopyInOptions{}, &packed); err != nil {
		t.Fatal(err)
	}
	if got := w.exec(c.ID, "cat", "/memory/script", "/proc/1/comm"); got.out != "copiedsleep\n" {
		t.Errorf("%+v", got)
	}
	for _, users := range []string{"", "auto"} {
		c := w.start(engine.Spec{Command: []string{"sleep", "1000"}, UserNS: users})
		owner := map[string]int{"": 0, "auto": 65534}[users]
		if _, got, err := w.out(c.ID, "/dev/null"); err != nil || got["null"].Typeflag != tar.TypeChar ||
			got["null"].Uid != owner {
			t.Errorf("a device: %+v, %v", got, err)
		}
		foreign := file("foreign", "x")
		foreign.Uid = 1 << 20
		if err := w.in(c.ID, "/tmp", engine.CopyInOptions{}, foreign); err != nil {
			t.Errorf("of a user that the container does not know: %v", err)
		}
		if got := w.exec(c.ID, "stat", "-c", "%u %g", "/tmp/foreign"); got.out != "0 0\n" {
			t.Errorf("%+v", got)
		}
	}
	if got := w.exec(c.ID, "ls", "/sys/fs/cgroup", "/proc/self/fd"); got.Code != 0 {
		t.Errorf("the container's own mounts: %+v", got)
	}
}

// A container swaps a directory for a link to a place outside while files are copied. Nothing of the host is read, and
// nothing written.
func TestCopyOfWhatIsSwapped(t *testing.T) {
	shimtest.Copier(t)
	w := newWorld(t)
	victim := t.TempDir()
	if err := os.Chmod(victim, 0o777); err != nil {
		t.Fatal(err)
	}
	shimtest.Write(t, filepath.Join(victim, "secret"), "of the host")
	c := w.start(engine.Spec{Command: sh("mkdir -p /x/d; touch /x/d/ok; ln -s " + victim + " /x/l; cd /x; " +
		"while :; do mv d e; mv l d; mv d l; mv e d; done")})
	for i := range 12 {
		if _, got, err := w.out(c.ID, "/x/d/."); err == nil {
			for name, e := range got {
				if e.text == "of the host" {
					t.Fatalf("%s is of the host", name)
				}
			}
		}
		// It fails where the directory is not there at this moment.
		_ = w.in(c.ID, "/x/d", engine.CopyInOptions{}, file(fmt.Sprint("new", i), ""))
	}
	if left, err := os.ReadDir(victim); err != nil || len(left) != 1 {
		t.Errorf("written to the host: %v, %v", left, err)
	}
}

// A client that goes away takes the process with it, whatever that waits for.
func TestCopyIsGivenUp(t *testing.T) {
	shimtest.Copier(t)
	w := newWorld(t)
	running := w.start(engine.Spec{Command: []string{"sleep", "1000"}})
	stopped := w.create(engine.Spec{})
	for name, c := range map[string]engine.Container{"running": running, "stopped": stopped} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			r, pipe := io.Pipe()
			defer pipe.Close()
			done := make(chan error, 1)
			go func() { done <- w.e.CopyIn(ctx, c.ID, "/tmp", engine.CopyInOptions{}, r) }()
			if _, err := pipe.Write(make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("by who removes the container", func(t *testing.T) {
		r, pipe := io.Pipe()
		defer pipe.Close()
		done := make(chan error, 1)
		go func() { done <- w.e.CopyIn(t.Context(), stopped.ID, "/tmp", engine.CopyInOptions{}, r) }()
		if _, err := pipe.Write(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		if _, err := w.e.Remove(t.Context(), stopped.ID, true, false); err != nil {
			t.Errorf("remove: %v", err)
		}
		if err := <-done; err == nil {
			t.Error("the copy came to an end")
		}
	})
	t.Run("by the end of the container", func(t *testing.T) {
		r, pipe := io.Pipe()
		defer pipe.Close()
		done := make(chan error, 1)
		go func() { done <- w.e.CopyIn(t.Context(), running.ID, "/tmp", engine.CopyInOptions{}, r) }()
		if _, err := pipe.Write(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		if err := w.e.Kill(t.Context(), running.ID, "KILL"); err != nil {
			t.Fatal(err)
		}
		if err := <-done; !errors.Is(err, engine.ErrNotRunning) {
			t.Errorf("got %v", err)
		}
	})
	if !await.Holds(func() bool { return len(openedBelow(w.dir)) == 0 }) {
		t.Errorf("left: %v", openedBelow(w.dir))
	}
}
