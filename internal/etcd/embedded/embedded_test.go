package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/etcd"
	"github.com/vethloom/vethloom/internal/etcd/embedded"
	"github.com/vethloom/vethloom/internal/etcd/etcdtest"
)

// childEnv has a copy of the test binary serve the directory it names, write to it, and tell of each
// write on stdout, until it is killed. With probeEnv it only starts and stops.
const (
	childEnv = "EMBEDDED_TEST_DIR"
	probeEnv = "EMBEDDED_TEST_PROBE"
)

// damagedStatus is the probe's exit status when Start says that the data are damaged.
const damagedStatus = 3

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		fmt.Fprintln(os.Stderr, writeForever(dir))
		os.Exit(1)
	}
	if dir := os.Getenv(probeEnv); dir != "" {
		os.Exit(probe(dir))
	}
	goleak.VerifyTestMain(m)
}

func probe(dir string) int {
	s, err := embedded.Start(context.Background(), embedded.Config{Dir: dir, ReadyTimeout: 2 * time.Second})
	if err == nil {
		err = s.Close()
	}
	if err == nil {
		return 0
	}
	fmt.Println(err)
	if errors.Is(err, embedded.ErrDamaged) {
		return damagedStatus
	}
	return 1
}

func writeForever(dir string) error {
	s, err := embedded.Start(context.Background(), embedded.Config{Dir: dir})
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		if _, err := s.Client().Put(context.Background(), fmt.Sprintf("/n/%06d", i), "x"); err != nil {
			return err
		}
		if _, err := fmt.Println(i); err != nil {
			return err
		}
	}
}

func put(t *testing.T, s *embedded.Server, key, value string) {
	t.Helper()
	if _, err := s.Client().Put(t.Context(), key, value); err != nil {
		t.Fatal(err)
	}
}

func TestStartKeepsTheData(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "etcd")
	var cluster uint64
	for i := range 3 {
		begin := time.Now()
		s := etcdtest.Serve(t, embedded.Config{Dir: dir})
		t.Logf("ready after %v", time.Since(begin))
		put(t, s, fmt.Sprint("/", i), "x")
		r, err := s.Client().Get(t.Context(), "/", clientv3.WithPrefix())
		if err != nil || len(r.Kvs) != i+1 {
			t.Fatalf("round %d: %v, %v", i, r, err)
		}
		if i > 0 && r.Header.ClusterId != cluster {
			t.Errorf("the cluster's ID was %x and is %x", cluster, r.Header.ClusterId)
		}
		cluster = r.Header.ClusterId
		etcdtest.Stop(t, s)
	}
	other := etcdtest.Serve(t, embedded.Config{Dir: t.TempDir()})
	r, err := other.Client().Get(t.Context(), "/")
	if err != nil || r.Header.ClusterId == cluster {
		t.Errorf("another directory is the same cluster %x (%v)", cluster, err)
	}
}

func TestNobodyElseReachesIt(t *testing.T) {
	before := listeners(t)
	s := etcdtest.Serve(t, embedded.Config{Dir: filepath.Join(t.TempDir(), "new")})
	if es := s.Endpoints(); len(es) != 0 {
		t.Errorf("endpoints %v", es)
	}
	for l := range listeners(t) {
		if !before[l] {
			t.Errorf("it listens: %s", l)
		}
	}
	info, err := os.Stat(s.Dir())
	if err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("the directory has mode %v (%v)", info.Mode(), err)
	}
}

// listeners are the listening sockets of this process, of any family.
func listeners(t *testing.T) map[string]bool {
	t.Helper()
	mine := map[string]bool{}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		target, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err == nil && strings.HasPrefix(target, "socket:[") {
			mine[strings.Trim(target, "socket:[]")] = true
		}
	}
	out := map[string]bool{}
	for _, file := range []string{"tcp", "tcp6", "unix"} {
		b, err := os.ReadFile("/proc/self/net/" + file)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(string(b), "\n") {
			f := strings.Fields(line)
			inode := 9
			if file == "unix" {
				inode = 6
			}
			if len(f) > inode && mine[f[inode]] {
				out[line] = true
			}
		}
	}
	return out
}

func TestEndpoints(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	s := etcdtest.Serve(t, embedded.Config{Dir: t.TempDir(),
		ClientURLs: []string{"unix://" + path, "http://127.0.0.1:0"}})
	put(t, s, "/a", "x")
	es := s.Endpoints()
	if len(es) != 2 || es[0] != "unix://"+path || strings.HasSuffix(es[1], ":0") {
		t.Fatalf("endpoints %v", es)
	}
	for _, e := range es {
		c, err := etcd.Dial(etcd.Config{Endpoints: []string{e}})
		if err != nil {
			t.Fatal(err)
		}
		if r, err := c.Get(t.Context(), "/a"); err != nil || len(r.Kvs) != 1 {
			t.Errorf("%s: %v, %v", e, r, err)
		}
		if err := c.Close(); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

func TestRefusals(t *testing.T) {
	used := t.TempDir()
	etcdtest.Serve(t, embedded.Config{Dir: used})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx  context.Context
		c    embedded.Config
		is   error
		text string
	}{
		"in use":       {t.Context(), embedded.Config{Dir: used}, embedded.ErrInUse, used},
		"no directory": {t.Context(), embedded.Config{}, nil, "directory"},
		"a file":       {t.Context(), embedded.Config{Dir: file}, nil, file},
		"port in use": {t.Context(), embedded.Config{Dir: t.TempDir(),
			ClientURLs: []string{"http://" + l.Addr().String()}}, nil, "address already in use"},
		"no URL": {t.Context(), embedded.Config{Dir: t.TempDir(), ClientURLs: []string{"http://a:b"}}, nil,
			"http://a:b"},
		"TLS, no files": {t.Context(), embedded.Config{Dir: t.TempDir(), ClientURLs: []string{"https://127.0.0.1:0"}},
			nil, "TLS"},
		"ended context": {ended, embedded.Config{Dir: t.TempDir()}, context.Canceled, "cancel"},
	} {
		_, err := embedded.Start(c.ctx, c.c)
		if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
		t.Logf("%s: %v", name, err)
	}
}

// TestNoRoom starts on a disk that is too full, and again when it is not.
func TestNoRoom(t *testing.T) {
	disk := t.TempDir()
	mount := func(flags uintptr, size string) {
		t.Helper()
		if err := unix.Mount("tmpfs", disk, "tmpfs", flags, "size="+size); err != nil {
			t.Fatal(err)
		}
	}
	mount(0, "64m")
	t.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(disk, "etcd")
	_, err := embedded.Start(t.Context(), embedded.Config{Dir: dir})
	if !errors.Is(err, embedded.ErrNoRoom) || !strings.Contains(err.Error(), dir) ||
		!strings.Contains(err.Error(), "64 MiB are free, and it wants 144") {
		t.Errorf("with 64 MiB: %v", err)
	}
	mount(unix.MS_REMOUNT, "256m")
	s, err := embedded.Start(t.Context(), embedded.Config{Dir: dir})
	if err != nil {
		t.Fatalf("with 256 MiB: %v", err)
	}
	put(t, s, "/a", "x")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	used := func() uint64 {
		var st unix.Statfs_t
		if err := unix.Statfs(disk, &st); err != nil {
			t.Fatal(err)
		}
		return (st.Blocks - st.Bfree) * uint64(st.Bsize)
	}
	mount(unix.MS_REMOUNT, fmt.Sprint(used()+8<<20))
	if _, err := embedded.Start(t.Context(), embedded.Config{Dir: dir}); !errors.Is(err, embedded.ErrNoRoom) ||
		!strings.Contains(err.Error(), "wants 16") {
		t.Errorf("with data and 8 MiB: %v", err)
	}
}

// TestKill kills a writer again and again: whatever it was told is stored is there.
func TestKill(t *testing.T) {
	dir, exe := t.TempDir(), "/proc/self/exe"
	for round := range 3 {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), childEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		told := make([]byte, 400)
		if _, err := io.ReadFull(out, told); err != nil {
			t.Error(err)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		rest, err := io.ReadAll(out)
		if err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Error("the writer ended by itself")
		}
		lines := strings.Count(string(told)+string(rest), "\n")
		s := etcdtest.Serve(t, embedded.Config{Dir: dir})
		r, err := s.Client().Get(t.Context(), "/n/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil || r.Count < int64(lines) {
			t.Errorf("round %d: %d stored, %v of them there (%v)", round, lines, r, err)
		}
		etcdtest.Stop(t, s)
	}
}

// TestDamage has every kind of file cut, emptied and overwritten: etcd may start when it can do without, but the
// process must live and be told where to look.
func TestDamage(t *testing.T) {
	good := filepath.Join(t.TempDir(), "good")
	s := etcdtest.Serve(t, embedded.Config{Dir: good})
	for i := range 1100 { // one snapshot
		put(t, s, fmt.Sprintf("/n/%06d", i), strings.Repeat("x", 200))
	}
	etcdtest.Stop(t, s)
	files := []string{}
	if err := filepath.WalkDir(filepath.Join(good, "member"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, strings.TrimPrefix(path, good))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for _, file := range files {
		for name, harm := range map[string]func(string) error{
			"removed":   os.Remove,
			"emptied":   func(p string) error { return os.Truncate(p, 0) },
			"cut":       cut,
			"scribbled": scribble,
		} {
			dir := filepath.Join(t.TempDir(), "bad")
			if err := os.CopyFS(dir, os.DirFS(good)); err != nil {
				t.Fatal(err)
			}
			if err := harm(dir + file); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), probeEnv+"="+dir)
			out, err := cmd.CombinedOutput()
			status := cmd.ProcessState.ExitCode()
			t.Logf("%s %s: status %d (%v): %s", file, name, status, err, out)
			if status == damagedStatus {
				refused++
			}
			if status != 0 && (status != damagedStatus || !strings.Contains(string(out), dir) ||
				!strings.Contains(string(out), "move it away")) {
				t.Errorf("%s %s: status %d: %s", file, name, status, out)
			}
		}
	}
	if refused == 0 {
		t.Error("no damage was noticed")
	}
}

func cut(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.Truncate(path, min(info.Size()/3, 20000))
}

func scribble(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(strings.Repeat("scribble", 2048)), 0)
	return errors.Join(err, f.Close())
}
