package mounts

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/shim"
)

// volumeOf is an image's root with files at /data, and an empty volume.
func volumeOf(t *testing.T, files int) (root string, m shim.Bind) {
	t.Helper()
	root, home := t.TempDir(), t.TempDir()
	m = shim.Bind{Source: filepath.Join(home, "_data"), Target: "/data", CopyUp: true}
	for _, d := range []string{filepath.Join(root, "data/d1"), m.Source} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i := range files {
		write(t, filepath.Join(root, "data/d1", fmt.Sprint("f", i)), "of the image")
	}
	return root, m
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// A container that has the volume mounted puts a link to a directory of the host in the place
// of each directory that appears, as fast as it can. Nothing is written where the link leads.
func TestFillingDoesNotFollowALinkThatAppears(t *testing.T) {
	victim := t.TempDir()
	for range 8 {
		root, m := volumeOf(t, 300)
		stop := make(chan struct{})
		var g sync.WaitGroup
		g.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				os.Symlink(victim, filepath.Join(m.Source, "link"))
				unix.Renameat2(unix.AT_FDCWD, filepath.Join(m.Source, "link"), unix.AT_FDCWD,
					filepath.Join(m.Source, "d1"), unix.RENAME_EXCHANGE)
			}
		})
		err := fillVolume(root, m, nil)
		close(stop)
		g.Wait()
		if err != nil {
			t.Fatal(err)
		}
		if left := names(t, victim); len(left) > 0 {
			t.Fatalf("%d files of the image are in a directory of the host", len(left))
		}
		if info, err := os.Lstat(victim); err != nil || info.Mode().Perm() != 0o755 {
			t.Fatalf("the host's directory has mode %v, %v", info.Mode(), err)
		}
	}
}

func TestFillingIsAllOrNothing(t *testing.T) {
	t.Run("a copy cut short is made anew", func(t *testing.T) {
		root, m := volumeOf(t, 3)
		part := filepath.Join(filepath.Dir(m.Source), fillingName, "d1")
		if err := os.MkdirAll(part, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(part, "f0"), "cut sho")
		if err := fillVolume(root, m, nil); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(m.Source, "d1/f0")); err != nil || string(b) != "of the image" {
			t.Errorf("%q, %v", b, err)
		}
	})
	t.Run("a whole copy is moved in by the next start", func(t *testing.T) {
		root, m := volumeOf(t, 3)
		home := filepath.Dir(m.Source)
		if err := os.MkdirAll(filepath.Join(home, filledName, "late"), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(m.Source, "early"), "moved before the crash")
		if err := fillVolume(root, m, nil); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(names(t, m.Source), names(t, home)); got != "[early late] [_data]" {
			t.Errorf("volume and what is beside it: %s", got)
		}
	})
	t.Run("a full disk leaves nothing", func(t *testing.T) {
		root, m := volumeOf(t, 1)
		home := filepath.Dir(m.Source)
		if err := unix.Mount("small", home, "tmpfs", 0, "size=64k"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(home, 0); err != nil {
				t.Error(err)
			}
		})
		if err := os.Mkdir(m.Source, 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(root, "data/large"), string(make([]byte, 1<<20)))
		if err := fillVolume(root, m, nil); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("got %v", err)
		}
		if got := fmt.Sprint(names(t, m.Source), names(t, home)); got != "[] [_data]" {
			t.Errorf("volume and what is beside it: %s", got)
		}
	})
	t.Run("two at once see it whole", func(t *testing.T) {
		root, m := volumeOf(t, 500)
		var g sync.WaitGroup
		for range 4 {
			g.Go(func() {
				if err := fillVolume(root, m, nil); err != nil {
					t.Error(err)
				}
				if n := len(names(t, filepath.Join(m.Source, "d1"))); n != 500 {
					t.Errorf("%d of 500 files", n)
				}
			})
		}
		g.Wait()
	})
	t.Run("what a neighbour made meanwhile stays", func(t *testing.T) {
		root, m := volumeOf(t, 1)
		home := filepath.Dir(m.Source)
		if err := os.MkdirAll(filepath.Join(home, filledName, "d1"), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(m.Source, "d1"), "a neighbour's")
		if err := fillVolume(root, m, nil); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(m.Source, "d1")); err != nil || string(b) != "a neighbour's" {
			t.Errorf("%q, %v", b, err)
		}
	})
}

func TestFillingKeepsWhatFilesAre(t *testing.T) {
	root, m := volumeOf(t, 0)
	data := filepath.Join(root, "data")
	tool := filepath.Join(data, "tool")
	write(t, tool, "x")
	capability := make([]byte, 20) // struct vfs_cap_data, version 2
	binary.LittleEndian.PutUint32(capability, 0x02000001)
	binary.LittleEndian.PutUint32(capability[4:], 1<<10)
	old := time.Unix(1_000_000_000, 0)
	for _, err := range []error{
		os.Chown(tool, 70, 70), unix.Chmod(tool, 0o4755), unix.Setxattr(tool, xattrCapability, capability, 0),
		os.Link(tool, filepath.Join(data, "again")), os.Symlink("/etc/shadow", filepath.Join(data, "link")),
		unix.Mkfifo(filepath.Join(data, "fifo"), 0o600), os.WriteFile(filepath.Join(data, "holes"), nil, 0o600),
		os.Truncate(filepath.Join(data, "holes"), 1<<40), os.Chtimes(tool, old, old), os.Chown(data, 70, 70),
		os.Chmod(data, 0o700), os.Chtimes(data, old, old),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := fillVolume(root, m, nil); err != nil {
		t.Fatal(err)
	}
	stat := func(name string) (st unix.Stat_t) {
		if err := unix.Lstat(filepath.Join(m.Source, name), &st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	if st := stat("tool"); st.Uid != 70 || st.Mode != unix.S_IFREG|0o4755 || st.Mtim.Sec != old.Unix() ||
		st.Nlink != 2 {
		t.Errorf("tool: %+v", st)
	}
	if st := stat("."); st.Uid != 70 || st.Mode&0o7777 != 0o700 || st.Mtim.Sec != old.Unix() {
		t.Errorf("the volume: %+v", st)
	}
	if st := stat("holes"); st.Size != 1<<40 || st.Blocks > 16 {
		t.Errorf("a file of 1 TiB without data: %d bytes, %d blocks", st.Size, st.Blocks)
	}
	if st := stat("fifo"); st.Mode&unix.S_IFMT != unix.S_IFIFO {
		t.Errorf("fifo: mode %o", st.Mode)
	}
	if link, err := os.Readlink(filepath.Join(m.Source, "link")); err != nil || link != "/etc/shadow" {
		t.Errorf("link: %q, %v", link, err)
	}
	got := make([]byte, 64)
	n, err := unix.Getxattr(filepath.Join(m.Source, "tool"), xattrCapability, got)
	if err != nil || string(got[:n]) != string(capability) {
		t.Errorf("capability: %x, %v", got[:n], err)
	}
}

func TestAFileAtTheTargetFillsNothing(t *testing.T) {
	root, m := volumeOf(t, 0)
	if err := os.RemoveAll(filepath.Join(root, "data")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "data"), "a file")
	if err := fillVolume(root, m, nil); err != nil {
		t.Fatal(err)
	}
	if got := names(t, m.Source); len(got) != 0 {
		t.Errorf("volume: %v", got)
	}
	if _, err := os.Lstat(filepath.Join(filepath.Dir(m.Source), fillingName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left beside the volume: %v", err)
	}
}
