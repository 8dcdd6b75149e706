// Package dockerdtest gives tests a real dockerd beside a netd.
package dockerdtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vethloom/vethloom/internal/await"
)

// Config says where a dockerd runs.
type Config struct {
	Plugin string   // netd's socket for it
	Socket string   // that it is to answer at
	Args   []string // further flags
	// Start starts a command in the network namespace of dockerd's host
	Start func(*exec.Cmd) error
}

// Dockerd is one that runs, or has run.
type Dockerd struct {
	Config
	t    testing.TB
	dir  string
	name string // of its cgroup
	cmd  *exec.Cmd
	gone chan error
	log  *os.File // a pipe would be held by what outlives dockerd
}

var number atomic.Int64

// New starts a dockerd that asks netd for its networks. At the test's end nothing of it is left.
func New(t testing.TB, c Config) *Dockerd {
	t.Helper()
	d := &Dockerd{Config: c, t: t, dir: t.TempDir(), name: fmt.Sprintf("docker-test-%d-%d", os.Getpid(), number.Add(1))}
	var err error
	if d.log, err = os.Create(filepath.Join(d.dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if d.cmd != nil {
			d.End(os.Interrupt)
		}
		d.log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(d.log.Name())
			t.Logf("log of dockerd:\n%s", text)
		}
		out, err := exec.Command("sh", "-c", "find /sys/fs/cgroup -depth -type d -path '*"+d.name+
			"*' -exec rmdir {} + 2>/dev/null; awk '$5 ~ \"^"+d.dir+
			"\" {print $5}' /proc/self/mountinfo | sort -r | xargs -r umount -l").CombinedOutput()
		if err != nil {
			t.Errorf("remove what dockerd has left: %v: %s", err, out)
		}
	})
	d.Begin()
	return d
}

// Begin starts dockerd and waits until it answers.
func (d *Dockerd) Begin() {
	d.t.Helper()
	d.Launch()
	await.True(d.t, "dockerd answers", func() bool { return d.Answers() })
}

// Answers reports whether dockerd answers.
func (d *Dockerd) Answers() bool {
	_, _, err := d.Try("version")
	return err == nil
}

// Launch starts dockerd, with a containerd that it starts: one that was killed leaves a number behind that dockerd
// takes for it. It is in a mount namespace of its own: there netd's socket is where it looks for plugins.
func (d *Dockerd) Launch() {
	d.t.Helper()
	keep, back := "", "" // its own /run, but the two directories that are shared
	for i, at := range []string{filepath.Dir(d.Plugin), filepath.Dir(d.Socket)} {
		kept := fmt.Sprintf("%s/kept%d", d.dir, i)
		keep += fmt.Sprintf("mkdir -p %s && mount --bind %s %[1]s && ", kept, at)
		back += fmt.Sprintf("mkdir -p %s && mount --bind %s %[1]s && ", at, kept)
	}
	script := "mount --make-rprivate / && " + keep + "mount -t tmpfs tmpfs /run && " + back + fmt.Sprintf(
		"mkdir -p /run/docker/plugins && rm -f %[2]s/exec/containerd/containerd.pid && "+
			"ln -s %[1]s /run/docker/plugins/vethloom.sock && exec dockerd --data-root %[2]s/data "+
			"--exec-root %[2]s/exec --pidfile %[2]s/pid -H unix://%[3]s --cgroup-parent /%[4]s --bridge none "+
			"--log-level warn %[5]s",
		d.Plugin, d.dir, d.Socket, d.name, strings.Join(d.Args, " "))
	cmd := exec.Command("unshare", "-m", "sh", "-c", script)
	cmd.Stderr, cmd.Stdout = d.log, d.log
	if err := d.Start(cmd); err != nil {
		d.t.Fatal(err)
	}
	gone := make(chan error, 1)
	go func() { gone <- cmd.Wait() }()
	d.cmd, d.gone = cmd, gone
}

// Signal sends dockerd a signal.
func (d *Dockerd) Signal(s os.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		d.t.Error(err)
	}
}

// End ends dockerd and waits for it.
func (d *Dockerd) End(s os.Signal) {
	d.t.Helper()
	d.Signal(s)
	<-d.gone
	d.cmd = nil
}

// Dir is where dockerd keeps what it has.
func (d *Dockerd) Dir() string { return filepath.Join(d.dir, "data") }

// Try runs docker.
func (d *Dockerd) Try(args ...string) (stdout, stderr string, err error) {
	d.t.Helper()
	cmd := exec.CommandContext(d.t.Context(), "docker", args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+d.Socket)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return strings.TrimSpace(out.String()), strings.TrimSpace(errs.String()), err
}

// Docker runs docker, which must succeed.
func (d *Dockerd) Docker(args ...string) string {
	d.t.Helper()
	out, errs, err := d.Try(args...)
	if err != nil {
		d.t.Fatalf("docker %s: %v: %s %s", strings.Join(args, " "), err, out, errs)
	}
	return out
}
