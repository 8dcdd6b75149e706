// Package dockerdtest gives tests a real dockerd beside a netd.
package dockerdtest

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vethloom/vethloom/internal/await"
)

// Config says where a dockerd runs.
type Config struct {
	Program string   // its path; "": the distribution's
	Plugin  string   // netd's socket for it
	Socket  string   // that it is to answer at
	Args    []string // further flags
	// Start starts a command in the network namespace of dockerd's host
	Start func(*exec.Cmd) error
}

// Current has the engine be a newer one than the distribution's, which is built from its Go module, with a runc of its
// age.
func (c Config) Current(t testing.TB) Config {
	t.Helper()
	dir := Built(t, "engine")
	c.Program = filepath.Join(dir, "dockerd")
	c.Args = append([]string{"--add-runtime", "current=" + filepath.Join(dir, "runc"), "--default-runtime", "current"},
		c.Args...)
	return c
}

// Built is the directory with programs that the Makefile has a target for, in modules of their own. They are built
// where they are not yet.
func Built(t testing.TB, target string) string {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(here), "../../..")
	out, err := exec.Command("make", "-C", root, "--no-print-directory", ".cache/"+target).CombinedOutput()
	if err != nil {
		t.Fatalf("build the %s: %v: %s", target, err, out)
	}
	return filepath.Join(root, ".cache", target)
}

// Dockerd is one that runs, or has run.
type Dockerd struct {
	Config
	t      testing.TB
	dir    string
	name   string    // of its cgroup
	holder *exec.Cmd // of the mount namespace
	cmd    *exec.Cmd
	gone   chan error
	log    *os.File // a pipe would be held by what outlives dockerd
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
	d.place()
	t.Cleanup(func() {
		if d.cmd != nil {
			d.End(os.Interrupt)
		}
		d.log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(d.log.Name())
			t.Logf("log of dockerd:\n%s", text)
		}
		d.sweep()
	})
	d.Begin()
	return d
}

// sweep ends containers that dockerd has lost, each of which has a shim, and removes what is left of them.
func (d *Dockerd) sweep() {
	const script = `
groups() { find /sys/fs/cgroup -depth -type d -path "*$1*"; }
groups "$1" | while read -r g; do cat "$g/cgroup.procs"; done | xargs -r kill -9
grep -la "shim.*$2" /proc/[0-9]*/cmdline | cut -d/ -f3 | xargs -r kill -9
for i in $(seq 100); do
	groups "$1" | xargs -r rmdir
	[ -z "$(groups "$1")" ] && break
	sleep 0.05
done
awk -v dir="$2" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r | xargs -r umount -l
[ -z "$(groups "$1")" ]`
	if out, err := exec.Command("sh", "-c", script, "sweep", d.name, d.dir).CombinedOutput(); err != nil {
		d.t.Errorf("remove what dockerd has left: %v: %s", err, out)
	}
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

// place makes a mount namespace for this dockerd, which its restarts have too: with netd's socket where dockerd looks
// for plugins, and a /run of its own. It is there until the test process ends.
func (d *Dockerd) place() {
	d.t.Helper()
	keep, back := "", "" // what is shared in /run, if it is there
	for i, at := range []string{filepath.Dir(d.Plugin), filepath.Dir(d.Socket)} {
		kept := fmt.Sprintf("%s/kept%d", d.dir, i)
		keep += fmt.Sprintf("mkdir -p %s && mount --bind %s %[1]s && ", kept, at)
		back += fmt.Sprintf("mkdir -p %s && mount --bind %s %[1]s && ", at, kept)
	}
	d.holder = exec.Command("unshare", "-m", "sh", "-c", "mount --make-rprivate / && "+keep+
		"mount -t tmpfs tmpfs /run && "+back+"mkdir -p /run/docker/plugins && "+
		"ln -s "+d.Plugin+" /run/docker/plugins/vethloom.sock && echo ready && exec cat")
	d.holder.Stderr = d.log
	in, err := d.holder.StdinPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	out, err := d.holder.StdoutPipe()
	if err == nil {
		err = d.holder.Start()
	}
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		in.Close()
		_ = d.holder.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		d.t.Fatalf("make a place for dockerd: %v: %q", err, line)
	}
}

// Launch starts dockerd, with a containerd that it starts: one that was killed leaves a number behind that dockerd
// takes for it.
func (d *Dockerd) Launch() {
	d.t.Helper()
	cmd := exec.Command("nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", d.holder.Process.Pid), "sh", "-c",
		fmt.Sprintf("rm -f %[1]s/exec/containerd/containerd.pid && "+
			"DOCKER_MIN_API_VERSION=1.41 exec %[5]s --data-root %[1]s/data "+
			"--exec-root %[1]s/exec --pidfile %[1]s/pid -H unix://%[2]s --cgroup-parent /%[3]s --bridge none "+
			"--log-level warn %[4]s", d.dir, d.Socket, d.name, strings.Join(d.Args, " "), cmp.Or(d.Program, "dockerd")))
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
