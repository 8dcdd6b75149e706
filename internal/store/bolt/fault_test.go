package bolt_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/store/bolt"
)

// filled returns the configuration of a store that holds some records and was closed.
func filled(t testing.TB) bolt.Config {
	t.Helper()
	c := config(t.TempDir())
	s := open(t, c)
	for i := range 50 {
		put(t, s, cnm.Key{Kind: cnm.KindNetwork, ID: fmt.Sprintf("n%02d", i)}, strings.Repeat("network ", 50))
		put(t, s, cnm.Key{Kind: cnm.KindEndpoint, ID: fmt.Sprintf("e%02d", i)}, strings.Repeat("endpoint ", 50))
	}
	closeStore(t, s)
	return c
}

var damages = map[string]func([]byte) []byte{
	"empty":             func(b []byte) []byte { return nil },
	"one byte":          func(b []byte) []byte { return b[:1] },
	"half a page":       func(b []byte) []byte { return b[:2048] },
	"meta pages only":   func(b []byte) []byte { return b[:8192] },
	"one page short":    func(b []byte) []byte { return b[:used(b)-4096] },
	"one byte short":    func(b []byte) []byte { return b[:used(b)-1] },
	"text":              func(b []byte) []byte { return []byte(strings.Repeat("not a database\n", 1000)) },
	"zeroes":            func(b []byte) []byte { return make([]byte, len(b)) },
	"ones":              func(b []byte) []byte { return bytes.Repeat([]byte{0xff}, len(b)) },
	"zeroes after meta": func(b []byte) []byte { return append(b[:8192:8192], make([]byte, len(b)-8192)...) },
	"a byte of a value": func(b []byte) []byte {
		for i := 8192; i < used(b); {
			j := bytes.Index(b[i:], []byte("network network"))
			if j < 0 {
				break
			}
			b[i+j]++
			i += j + 8
		}
		for i := 8192; i < used(b); {
			j := bytes.Index(b[i:], []byte("endpoint endpoint"))
			if j < 0 {
				break
			}
			b[i+j]++
			i += j + 8
		}
		return b
	},
}

// used is the part of a file that its newer meta page says is in use.
func used(b []byte) int {
	pages := 0
	for _, at := range []int{0, 4096} {
		pages = max(pages, int(b[at+16+40])|int(b[at+16+41])<<8)
	}
	return pages * 4096
}

func TestDamagedStateFile(t *testing.T) {
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			c := filled(t)
			edit(t, c.StateFile, damage)
			s := open(t, c)
			if n := s.Notices(); len(n) != 1 || !strings.Contains(n[0], c.StateFile) ||
				!strings.Contains(n[0], "good copy") {
				t.Errorf("notices %q", n)
			}
			if rs, err := s.List(t.Context(), cnm.KindNetwork); err != nil || len(rs) != 50 {
				t.Errorf("%d networks restored, %v; want 50", len(rs), err)
			}
			if rs, err := s.List(t.Context(), cnm.KindEndpoint); err != nil || len(rs) != 50 {
				t.Errorf("%d endpoints, %v: the other file was touched", len(rs), err)
			}
			if aside, _ := filepath.Glob(c.StateFile + ".corrupt-20260102T030405Z"); len(aside) != 1 {
				t.Errorf("the damaged file was not kept: %v", aside)
			}
			put(t, s, durable, "works")
			closeStore(t, s)
			if n := open(t, c).Notices(); len(n) != 0 {
				t.Errorf("the start after that: %q", n)
			}
		})
	}
}

func TestDamagedRuntimeFile(t *testing.T) {
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			c := filled(t)
			edit(t, c.RuntimeFile, damage)
			s := open(t, c)
			if n := s.Notices(); len(n) != 1 || !strings.Contains(n[0], c.RuntimeFile) {
				t.Errorf("notices %q", n)
			}
			if rs, err := s.List(t.Context(), cnm.KindEndpoint); err != nil || len(rs) != 50 {
				t.Errorf("%d endpoints restored, %v; want 50", len(rs), err)
			}
		})
	}
}

func TestDamageWithoutGoodCopy(t *testing.T) {
	for _, file := range []string{"state", "runtime"} {
		for _, copied := range []string{"missing", "damaged"} {
			t.Run(file+" "+copied, func(t *testing.T) {
				c := filled(t)
				path := c.StateFile
				if file == "runtime" {
					path = c.RuntimeFile
				}
				edit(t, path, damages["text"])
				if copied == "missing" {
					if err := os.Remove(path + ".good"); err != nil {
						t.Fatal(err)
					}
				} else {
					edit(t, path+".good", damages["one page short"])
				}
				s := open(t, c)
				if n := s.Notices(); len(n) != 1 || !strings.Contains(n[0], "starting empty") {
					t.Errorf("notices %q", n)
				}
				put(t, s, durable, "works")
				put(t, s, runtime, "works")
			})
		}
	}
}

func TestMissingStateFile(t *testing.T) {
	c := filled(t)
	if err := os.Remove(c.StateFile); err != nil {
		t.Fatal(err)
	}
	s := open(t, c)
	if n := s.Notices(); len(n) != 1 || !strings.Contains(n[0], "was missing") {
		t.Errorf("notices %q", n)
	}
	if rs, err := s.List(t.Context(), cnm.KindNetwork); err != nil || len(rs) != 50 {
		t.Errorf("%d networks, %v", len(rs), err)
	}
}

// TestAnyFlippedByte damages files at random: whatever happens, Open must not
// crash and what it returns must be what was written.
func TestAnyFlippedByte(t *testing.T) {
	c := filled(t)
	whole, err := os.ReadFile(c.StateFile)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 150 {
		b := bytes.Clone(whole)
		at := random.IntN(used(b))
		for j := range 1 + random.IntN(16) {
			b[(at+j)%len(b)] ^= byte(1 + random.IntN(255))
		}
		if err := os.WriteFile(c.StateFile, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := bolt.Open(t.Context(), c)
		if err != nil {
			if strings.Contains(err.Error(), "its format is") {
				continue // the flipped byte is the format's
			}
			t.Fatalf("%d: byte %d: %v", i, at, err)
		}
		rs, err := s.List(t.Context(), cnm.KindNetwork)
		if err != nil || len(rs) != 50 {
			t.Errorf("%d: byte %d: %d networks, %v, notices %q", i, at, len(rs), err, s.Notices())
		}
		for _, r := range rs {
			if string(r.Value) != strings.Repeat("network ", 50) {
				t.Errorf("%d: byte %d: %s holds %q", i, at, r.Key.ID, r.Value)
			}
		}
		closeStore(t, s)
	}
}

func FuzzOpen(f *testing.F) {
	c := filled(f)
	b, err := os.ReadFile(c.StateFile)
	if err != nil {
		f.Fatal(err)
	}
	b = b[:used(b)]
	f.Add(b)
	for _, damage := range damages {
		f.Add(damage(bytes.Clone(b)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c := config(t.TempDir())
		if err := os.MkdirAll(filepath.Dir(c.StateFile), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(c.StateFile, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := bolt.Open(context.Background(), c)
		if err != nil {
			return
		}
		put(t, s, durable, "works")
		closeStore(t, s)
	})
}

func TestGoodCopyFollowsCommits(t *testing.T) {
	c := config(t.TempDir())
	c.CopyDelay = time.Millisecond
	s := open(t, c)
	put(t, s, durable, "copied")
	await.True(t, "a good copy is written", func() bool {
		b, err := os.ReadFile(c.StateFile + ".good")
		return err == nil && bytes.Contains(b, []byte("copied"))
	})
}

// again runs this test binary as a child that does something else.
func again(t *testing.T, what string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), child+"="+what)
	return cmd
}

func TestFullDisk(t *testing.T) {
	cmd := again(t, "full disk", t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// fullDisk works on a file system of 512 KiB in a mount namespace of its own.
func fullDisk(dir string) error {
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=512k"); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	s, err := bolt.Open(context.Background(), config(dir))
	if err != nil {
		return err
	}
	for _, kind := range []cnm.Kind{cnm.KindNetwork, cnm.KindEndpoint} {
		if err := fillUp(s, kind); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	if err := s.Close(); !errors.Is(err, cnm.ErrExhausted) || !strings.Contains(err.Error(), "good copy") {
		return fmt.Errorf("close without room for the good copies: %v", err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=8m"); err != nil {
		return fmt.Errorf("make the file system larger: %w", err)
	}
	s, err = bolt.Open(context.Background(), config(dir))
	if err != nil {
		return err
	}
	if n := s.Notices(); len(n) > 0 {
		return fmt.Errorf("notices after a full disk: %q", n)
	}
	return s.Close()
}

// fillUp commits until the disk is full, makes room and goes on.
func fillUp(s *bolt.Store, kind cnm.Kind) error {
	ctx := context.Background()
	v := bytes.Repeat([]byte("x"), 20000)
	var failed error
	n := 0
	for ; failed == nil && n < 100; n++ {
		failed = s.Commit(ctx, cnm.Write{Key: cnm.Key{Kind: kind, ID: fmt.Sprint("a", n)}, Value: v},
			cnm.Write{Key: cnm.Key{Kind: kind, ID: fmt.Sprint("b", n)}, Value: v})
	}
	n-- // the last one failed
	if !errors.Is(failed, cnm.ErrExhausted) || !errors.Is(failed, syscall.ENOSPC) ||
		!strings.Contains(failed.Error(), "make room") {
		return fmt.Errorf("the error of a full disk is %v", failed)
	}
	for round := range 3 {
		rs, err := s.List(ctx, kind)
		if err != nil || len(rs) != 2*n {
			return fmt.Errorf("%d records, %v: want %d and nothing of the commits that failed", len(rs), err, 2*n)
		}
		if round == 0 {
			if err := s.Commit(ctx, cnm.Write{Key: cnm.Key{Kind: kind, ID: "huge"},
				Value: bytes.Repeat(v, 40)}); !errors.Is(err, cnm.ErrExhausted) {
				return fmt.Errorf("a commit larger than the disk: %v", err)
			}
			continue
		}
		// Removing needs a few pages; the pages freed by the failed commit are there.
		var writes []cnm.Write
		for _, r := range rs {
			writes = append(writes, cnm.Write{Key: r.Key, Revision: r.Revision})
		}
		if err := s.Commit(ctx, writes...); err != nil {
			return fmt.Errorf("make room: %w", err)
		}
		n = 1
		if err := s.Commit(ctx, cnm.Write{Key: cnm.Key{Kind: kind, ID: "a"}, Value: []byte("x")},
			cnm.Write{Key: cnm.Key{Kind: kind, ID: "b"}, Value: []byte("x")}); err != nil {
			return fmt.Errorf("commit after room was made: %w", err)
		}
	}
	return nil
}

// TestKill kills a process that commits, again and again, at any moment: what
// it was told is committed is there.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(3, 4))
	committed := 0
	for round := range 8 {
		cmd := again(t, "writer", dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, stop := bufio.NewScanner(out), 1+random.IntN(60)
		for range stop {
			if !lines.Scan() {
				t.Fatalf("round %d: the writer stopped: %v", round, lines.Err())
			}
			committed++
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() {
			committed++
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the writer was not killed")
		}
		s := open(t, config(dir))
		if n := s.Notices(); len(n) > 0 {
			t.Errorf("round %d: %q", round, n)
		}
		for _, kind := range []cnm.Kind{cnm.KindNetwork, cnm.KindEndpoint} {
			rs, err := s.List(t.Context(), kind)
			if err != nil || len(rs) < committed || len(rs) > committed+2*(round+1) {
				t.Fatalf("round %d: %d %s records, %v; %d commits were reported", round, len(rs), kind, err, committed)
			}
		}
		closeStore(t, s)
	}
}

// write commits records of both sorts until it is killed and reports each pair.
func write(dir string) error {
	c := config(dir)
	c.CopyDelay = time.Millisecond
	s, err := bolt.Open(context.Background(), c)
	if err != nil {
		return err
	}
	rs, err := s.List(context.Background(), cnm.KindNetwork)
	if err != nil {
		return err
	}
	es, err := s.List(context.Background(), cnm.KindEndpoint)
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		for kind, from := range map[cnm.Kind]int{cnm.KindNetwork: len(rs), cnm.KindEndpoint: len(es)} {
			k := cnm.Key{Kind: kind, ID: fmt.Sprintf("%06d", from+i)}
			if err := s.Commit(context.Background(),
				cnm.Write{Key: k, Value: bytes.Repeat([]byte("v"), 300+i%700)}); err != nil {
				return err
			}
		}
		fmt.Println(i)
	}
}
