// Package labtest gives tests a lab of their own, and finds what it leaves behind.
package labtest

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vethloom/vethloom/internal/lab"
)

// patience is for what processes do in their own time, on a busy machine.
const patience = 2 * time.Minute

var build = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("VETHLOOM_BIN"); dir != "" {
		return dir, nil
	}
	dir, err := os.MkdirTemp("", "vethloom-bin-")
	if err != nil {
		return "", err
	}
	const cmd = "github.com/vethloom/vethloom/cmd/"
	for _, args := range [][]string{
		{"-o", dir + "/", cmd + "net-copy", cmd + "net-resolver", cmd + "net-relay"},
		{"-tags", "seccomp,runc_nocriu", "-o", dir + "/", cmd + "netd", cmd + "net-shim"},
		{"-o", dir + "/", cmd + "net", cmd + "netlab"},
	} {
		if out, err := exec.Command("go", append([]string{"build"}, args...)...).CombinedOutput(); err != nil {
			return dir, fmt.Errorf("build the programs: %w: %s", err, out)
		}
	}
	return dir, nil
})

// Bin is the directory of the programs: VETHLOOM_BIN, else they are built once a test process.
// Call Main from TestMain.
func Bin(t testing.TB) string {
	t.Helper()
	dir, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Main is the TestMain of a package that calls Bin or Up: it runs the tests and removes what Bin has built.
func Main(m *testing.M) {
	code := m.Run()
	cleanup()
	os.Exit(code)
}

func cleanup() {
	if os.Getenv("VETHLOOM_BIN") != "" {
		return
	}
	if dir, err := build(); err == nil {
		os.RemoveAll(dir)
	}
}

var labs atomic.Int64

// Name is a name that no other lab of this machine has.
func Name() string { return fmt.Sprintf("t%d-%d", os.Getpid(), labs.Add(1)) }

// Up builds a lab with the programs of Bin. At the test's end it is removed, and nothing of it may be left.
func Up(t testing.TB, c lab.Config) *lab.Lab {
	t.Helper()
	if c.Name == "" {
		c.Name = Name()
	}
	if c.Bin == "" {
		c.Bin = Bin(t)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l, err := lab.Up(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Down(t, l) })
	return l
}

// Down removes a lab and fails the test when anything of it is left.
func Down(t testing.TB, l *lab.Lab) {
	t.Helper()
	if t.Failed() {
		logs(t, l)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := lab.Down(ctx, l.Dir, l.Name); err != nil {
		t.Errorf("remove lab %s: %v", l.Name, err)
	}
	if left := Left(l.Dir, l.Name); len(left) > 0 {
		t.Errorf("left behind by lab %s:\n%s", l.Name, strings.Join(left, "\n"))
	}
}

// logs shows the end of what the lab's daemons have said.
func logs(t testing.TB, l *lab.Lab) {
	for _, m := range l.Members {
		b, err := os.ReadFile(l.Log(m.Name))
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		t.Logf("log of %s:\n%s", m.Name, strings.Join(lines[max(0, len(lines)-60):], "\n"))
	}
}

// Left finds what names a lab's directory or is called after it: files, mounts, processes, cgroups.
func Left(dir, name string) []string {
	var left []string
	path := filepath.Join(dir, name)
	if _, err := os.Lstat(path); err == nil {
		left = append(left, "directory "+path)
	}
	if f, err := os.Open("/proc/self/mountinfo"); err == nil {
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			if strings.Contains(s.Text(), path+"/") {
				left = append(left, "mount "+s.Text())
			}
		}
	}
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, l := range lines {
		if b, err := os.ReadFile(l); err == nil && strings.Contains(string(b), path+"/") {
			left = append(left, "process "+l+" "+strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/vethloom-lab." + name + ".*", "/sys/fs/cgroup/*/vethloom-lab." +
		name + ".*"} {
		found, _ := filepath.Glob(pattern)
		for _, c := range found {
			left = append(left, "cgroup "+c)
		}
	}
	return left
}
