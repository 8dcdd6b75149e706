package image_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/internal/store/bolt"

	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// smallHost is a filesystem that holds images and records, as that of netd's --root does. It can become full before a
// step of what is done.
type smallHost struct {
	*fixture
	dir   string
	lacks string // what runs out: space, inodes, or anything, when the step alone is refused

	mu    sync.Mutex
	at    int // the step; 0: it does not become full
	steps []string
}

func openSmallHost(t *testing.T, lacks string) *smallHost {
	t.Helper()
	h := &smallHost{dir: smallDisk(t, "size=24m,nr_inodes=400"), lacks: lacks}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	records, err := bolt.Open(t.Context(), bolt.Config{StateFile: filepath.Join(h.dir, "state.db"),
		RuntimeFile: filepath.Join(t.TempDir(), "runtime.db"), BootID: "1", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := records.Close(); err != nil {
			t.Error(err)
		}
	})
	h.fixture = &fixture{root: filepath.Join(h.dir, "images"), records: records}
	h.Store, err = image.Open(t.Context(), image.Config{Root: h.root, Store: steppedStore{records, h.step}, Log: log,
		Step: h.step})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// steppedStore has commits of records be steps, too.
type steppedStore struct {
	cnm.Store
	step func(string) error
}

func (s steppedStore) Commit(ctx context.Context, w ...cnm.Write) error {
	if err := s.step("record"); err != nil {
		return err
	}
	return s.Store.Commit(ctx, w...)
}

func (h *smallHost) step(change string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.steps = append(h.steps, change)
	if len(h.steps) == h.at {
		return h.fill()
	}
	return nil
}

// fill takes all that the filesystem has left.
func (h *smallHost) fill() error {
	if h.lacks == "anything" {
		return unix.ENOSPC
	}
	f, err := os.Create(filepath.Join(h.dir, "ballast"))
	if err != nil {
		return err
	}
	chunk := int64(1 << 20)
	for size := int64(0); h.lacks == "space" && chunk >= 4096; {
		if err = unix.Fallocate(int(f.Fd()), 0, size, chunk); err != nil {
			chunk /= 2
		} else {
			size += chunk
		}
	}
	for n := 0; h.lacks == "inodes" && err == nil; n++ {
		err = unix.Mknod(filepath.Join(h.dir, fmt.Sprint("ballast", n)), unix.S_IFREG, 0)
	}
	if !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("fill %s: %w", h.dir, err)
	}
	return f.Close()
}

// drain gives back what fill took.
func (h *smallHost) drain(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(h.dir, "ballast*"))
	if err != nil || len(files) == 0 && h.lacks != "anything" {
		t.Fatalf("the filesystem did not become full: %v", err)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
}

// walk has the filesystem become full before each step of a change that brings in app:1. The change is to say so, to
// leave nothing but what helps the next try, and to work when there is space again.
func (h *smallHost) walk(t *testing.T, do func() error, again func(step string)) (failed int) {
	t.Helper()
	for at := 1; ; at++ {
		h.mustImport(t, files{{"a", "b"}, {"c", "d"}}.tar(t), image.ImportOptions{Reference: "other:1"})
		h.steps, h.at = nil, at
		err := do()
		h.at = 0
		if len(h.steps) < at {
			if err != nil {
				t.Fatal(err)
			}
			return failed
		}
		change := h.steps[at-1]
		what := fmt.Sprintf("step %d, %s", at, change)
		if err != nil {
			failed++
			h.explained(t, what, err)
			if layers, temporary := h.onDisk(t); layers != 1 || temporary > 0 {
				t.Errorf("%s: there are %d layers and %d temporary files", what, layers, temporary)
			}
			if list, err := h.List(t.Context()); err != nil || len(list) != 1 {
				t.Errorf("%s: there are %d images, %v", what, len(list), err)
			}
		}
		if _, _, err := h.Remove(t.Context(), "other:1", false, nil); err != nil {
			t.Errorf("%s: remove an image when it is full: %v", what, err)
		}
		h.drain(t)
		if err := do(); err != nil {
			t.Errorf("%s: with space again: %v", what, err)
		}
		again(change)
		if found := h.check(t, false); len(found) > 0 {
			t.Errorf("%s: found %+v", what, found)
		}
		h.clear(t)
		if t.Failed() {
			t.FailNow()
		}
	}
}

// explained wants an error to tell what ran out, where, and what to do.
func (h *smallHost) explained(t *testing.T, what string, err error) {
	t.Helper()
	lacks := "no " + h.lacks + " left for it"
	switch {
	case h.lacks == "anything":
		lacks = "left for it"
	case h.lacks == "space" && strings.Contains(err.Error(), "the last 1 MiB are left for netd's records"):
		lacks = "no room for it"
	}
	if !errors.Is(err, cnm.ErrExhausted) {
		t.Errorf("%s: got %v", what, err)
	}
	for _, want := range []string{"that holds " + h.root + " has", lacks, "net system df", "net image prune"} {
		if strings.Count(err.Error(), want) != 1 {
			t.Errorf("%s: %q does not say once: %s", what, err, want)
		}
	}
}

// clear removes all images, and wants nothing to be left.
func (h *smallHost) clear(t *testing.T) {
	t.Helper()
	if _, err := h.Prune(t.Context(), true, nil, nil); err != nil {
		t.Fatal(err)
	}
	h.empty(t)
	if left := h.blobs(t); len(left) > 0 {
		t.Errorf("blobs are left: %v", left)
	}
}

// TestFullDiskAtEveryStep has space or inodes run out before each step of a pull and of a load.
func TestFullDiskAtEveryStep(t *testing.T) {
	img := build(t, runtime.GOARCH, base, files{{"big", string(randomBytes(1 << 20))}}, mid)
	big, s := largest(t, img), newShelf()
	s.put(t, "1", img)
	archive := layoutArchive(t, func(p layout.Path) error { return p.AppendImage(img, named(refName, "app:1")) })
	for _, name := range []string{"space", "inodes", "anything"} {
		t.Run("pull without "+name, func(t *testing.T) {
			h := openSmallHost(t, name)
			clear(s.sent)
			failed := h.walk(t, func() error {
				_, err := h.Pull(t.Context(), "app:1", s, image.PullOptions{})
				return err
			}, func(step string) {
				// What had appeared when the record could not be written is collected, the rest is used.
				appeared := strings.HasPrefix(step, "rename") || strings.HasPrefix(step, "sync") || step == "record"
				if n := s.sent[big.Digest]; n > big.Size+256<<10 && !appeared {
					t.Errorf("%s: %d bytes were sent of %d", step, n, big.Size)
				}
				clear(s.sent)
			})
			if failed < 15 {
				t.Errorf("the pull failed at %d steps", failed)
			}
		})
		for what, bring := range map[string]func(*smallHost) error{
			"load": func(h *smallHost) error {
				_, err := h.Load(t.Context(), bytes.NewReader(archive))
				return err
			},
			"import": func(h *smallHost) error {
				_, err := h.Import(t.Context(), bytes.NewReader(base.tar(t)), image.ImportOptions{Reference: "app:1"})
				return err
			},
		} {
			t.Run(what+" without "+name, func(t *testing.T) {
				h := openSmallHost(t, name)
				if failed := h.walk(t, func() error { return bring(h) }, func(string) {}); failed < 4 {
					t.Errorf("it failed at %d steps", failed)
				}
			})
		}
	}
}
