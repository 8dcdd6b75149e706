package lab_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/lab"
	"github.com/vethloom/vethloom/internal/lab/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// sh runs a command on a host of the lab.
func sh(t *testing.T, l *lab.Lab, host, script string) (string, error) {
	t.Helper()
	line, err := l.Command(host, "sh", "-ec", script)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Env = append(os.Environ(), l.Environ(host)...)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func ok(t *testing.T, l *lab.Lab, host, script string) string {
	t.Helper()
	out, err := sh(t, l, host, script)
	if err != nil {
		t.Fatalf("%s: %s: %v\n%s", host, script, err, out)
	}
	return out
}

func fails(t *testing.T, l *lab.Lab, host, script string) {
	t.Helper()
	if out, err := sh(t, l, host, script); err == nil {
		t.Errorf("%s: %s: works, and must not:\n%s", host, script, out)
	}
}

func do(t *testing.T, l *lab.Lab, words ...string) {
	t.Helper()
	if err := l.Fault(t.Context(), words...); err != nil {
		t.Fatal(err)
	}
}

// links are this machine's own, which no lab may change.
func links(t *testing.T) []string {
	t.Helper()
	list, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range list {
		names = append(names, l.Name)
	}
	slices.Sort(names)
	return names
}

func TestALabIsIsolatedAndLeavesNothing(t *testing.T) {
	before := links(t)
	l := labtest.Up(t, lab.Config{Nodes: 2, Etcd: lab.EtcdNone, IPv6: true})
	if after := links(t); !slices.Equal(before, after) {
		t.Errorf("this machine's links: %v, and were %v", after, before)
	}
	ok(t, l, "n1", "ping -c1 -W2 $n2; ping -c1 -W2 $n2_6; net run --rm busybox true")
	ok(t, l, "n1", "net run -d --name a busybox sleep 1000")
	fails(t, l, "n1", "ping -c1 -W1 198.51.100.1")
	for _, host := range l.Hosts() {
		for link := range strings.Lines(ok(t, l, host, "ip -o link | cut -d: -f2")) {
			name, _, _ := strings.Cut(strings.TrimSpace(link), "@")
			known := name == "lo" || name == "eth0" || name == "br0" || name == "n1" || name == "n2" ||
				strings.HasPrefix(name, "vl")
			if !known {
				t.Errorf("%s has a link %q", host, name)
			}
		}
	}
	if own, err := os.Readlink("/proc/self/ns/net"); err != nil || ok(t, l, "n1", "readlink /proc/self/ns/net") == own {
		t.Errorf("n1 is in this machine's own network namespace (%v)", err)
	}
	if _, err := lab.Up(t.Context(), l.Config); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("a second lab of the same name: %v", err)
	}
}

func TestLabsSideBySide(t *testing.T) {
	var wg sync.WaitGroup
	labs := make([]*lab.Lab, 3)
	for i := range labs {
		wg.Go(func() {
			var err error
			labs[i], err = lab.Up(t.Context(), lab.Config{Name: labtest.Name(), Nodes: 2, Etcd: lab.EtcdNone,
				NoImage: true, Bin: labtest.Bin(t)})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	labtest.Down(t, labs[0])
	for _, l := range labs[1:] { // the others do not notice
		ok(t, l, "n1", "ping -c1 -W2 $n2; net status")
	}
	do(t, labs[1], "kill", "n1")
	ok(t, labs[2], "n1", "net status")
	for _, l := range labs[1:] {
		labtest.Down(t, l)
	}
}

func TestDownAfterAnythingWasKilled(t *testing.T) {
	for _, after := range []string{"ns/underlay", "ns/n1", "n1/log", "n2/log", "n1/run/netd.sock"} {
		dir, name := lab.DefaultDir, labtest.Name()
		up := exec.Command(filepath.Join(labtest.Bin(t), "netlab"), "up", "--name", name, "--nodes", "2", "--etcd",
			"none")
		if err := up.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- up.Wait() }()
		waitFor(t, filepath.Join(dir, name, after))
		if err := up.Process.Kill(); err != nil {
			t.Logf("it was faster: %v", err)
		}
		<-ended
		for range 2 { // a second time there is nothing to do
			if err := lab.Down(t.Context(), dir, name); err != nil {
				t.Errorf("after %s: %v", after, err)
			}
		}
		if left := labtest.Left(dir, name); len(left) > 0 {
			t.Errorf("killed when %s was there:\n%s", after, strings.Join(left, "\n"))
		}
	}
}

// What a killed netlab was doing at the moment goes on without it, outside the lab's namespaces and cgroups.
func TestDownEndsWhatAKilledUpWasDoing(t *testing.T) {
	bin, name := t.TempDir(), labtest.Name()
	for _, program := range []string{"netd", "net-shim", "net-copy", "net-resolver", "net-relay", "netlab"} {
		if err := os.Symlink(filepath.Join(labtest.Bin(t), program), filepath.Join(bin, program)); err != nil {
			t.Fatal(err)
		}
	}
	importing := filepath.Join(bin, "importing")
	script := "#!/bin/sh\ncase \"$*\" in\n*inspect*) exit 1 ;;\n*import*)\n\ttouch " + importing +
		"\n\tsh -c 'while :; do sleep 1; done' \"$@\" & wait ;;\nesac\n"
	if err := os.WriteFile(filepath.Join(bin, "net"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	up := exec.Command(filepath.Join(bin, "netlab"), "up", "--name", name, "--nodes", "1", "--etcd", "none")
	up.Env = append(os.Environ(), "VETHLOOM_BIN="+bin)
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, importing)
	if err := up.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := up.Wait(); err == nil {
		t.Error("netlab has ended well before it was killed")
	}
	if len(labtest.Left(lab.DefaultDir, name)) == 0 {
		t.Error("a killed netlab leaves nothing: this test shows nothing")
	}
	if err := lab.Down(t.Context(), lab.DefaultDir, name); err != nil {
		t.Error(err)
	}
	if left := labtest.Left(lab.DefaultDir, name); len(left) > 0 {
		t.Errorf("left:\n%s", strings.Join(left, "\n"))
	}
}

// waitFor waits until a file is there.
func waitFor(t *testing.T, path string) {
	t.Helper()
	await.Done(t, path+" is there", func() error {
		_, err := os.Stat(path)
		return err
	})
}

func TestDownKilledInTheMiddle(t *testing.T) {
	l := labtest.Up(t, lab.Config{Nodes: 2, Etcd: lab.EtcdNone})
	ok(t, l, "n1", "net run -d busybox sleep 1000; net run -d busybox sleep 1000")
	for _, after := range []time.Duration{2, 5, 10, 20, 40} {
		down := exec.Command(filepath.Join(labtest.Bin(t), "netlab"), "down", "--name", l.Name)
		if err := down.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after * time.Millisecond) // somewhere on its way, another place each time
		if err := down.Process.Kill(); err != nil {
			t.Logf("it was faster: %v", err)
		}
		if err := down.Wait(); err == nil {
			break
		}
	}
	labtest.Down(t, l)
}

func TestDownWithoutRecordOrDaemons(t *testing.T) {
	l := labtest.Up(t, lab.Config{Nodes: 1, Etcd: lab.EtcdNone})
	ok(t, l, "n1", "net run -d busybox sleep 1000")
	m, err := l.Member("n1")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(m.Proc.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(l.Dir, l.Name, "lab.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := lab.Open(l.Dir, l.Name); err == nil {
		t.Error("a lab without its record opens")
	}
	if names, err := lab.List(l.Dir); err != nil || !slices.Contains(names, l.Name) {
		t.Errorf("ls lists %v, %v: nobody would find what is left", names, err)
	}
	labtest.Down(t, l)
}

func TestAFailedUpLeavesNothing(t *testing.T) {
	c := lab.Config{Name: labtest.Name(), Nodes: 2, Etcd: lab.EtcdNone, Bin: labtest.Bin(t),
		Flags: []string{"--no-such-flag"}}
	_, err := lab.Up(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "no-such-flag") {
		t.Errorf("got %v, which does not say what netd said", err)
	}
	if left := labtest.Left(lab.DefaultDir, c.Name); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestRefusals(t *testing.T) {
	for want, c := range map[string]lab.Config{
		"name":       {Name: "../etc"},
		"nodes -1":   {Nodes: -1},
		"nodes 900":  {Nodes: 900},
		"etcd":       {Etcd: "two"},
		"make build": {Bin: t.TempDir()},
	} {
		if c.Name == "" {
			c.Name = labtest.Name()
		}
		if c.Bin == "" {
			c.Bin = labtest.Bin(t)
		}
		_, err := lab.Up(t.Context(), c)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %s", c, err, want)
		}
	}
	if err := lab.Down(t.Context(), "", "../etc"); err == nil {
		t.Error("down ../etc is taken")
	}
	if _, err := lab.Open("", "nobody"); err == nil || !strings.Contains(err.Error(), "no such lab") {
		t.Errorf("open nobody: %v", err)
	}
}
