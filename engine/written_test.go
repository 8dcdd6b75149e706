package engine_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/internal/await"
)

// Whatever a container puts in the place of a file that netd or net-shim reads, neither waits
// for it, follows it out of the container, or reads without end.

func TestExecWithStrangeAccounts(t *testing.T) {
	for name, make := range map[string]string{
		"FIFO":           "mkfifo /etc/passwd /etc/group",
		"link to FIFO":   "mkfifo /tmp/f; ln -s /tmp/f /etc/passwd; ln -s /tmp/f /etc/group",
		"directory":      "mkdir /etc/passwd /etc/group",
		"link out":       "ln -s ../../../../../../../../../etc/passwd /etc/passwd",
		"link to device": "ln -s /dev/zero /etc/passwd; ln -s /dev/zero /etc/group",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c := w.start(engine.Spec{Command: sh("rm /etc/passwd /etc/group; " + make + "; touch /ready; sleep 1000")})
			w.exec(c.ID, sh("until test -e /ready; do sleep 0.01; done")...)
			if got := w.exec(c.ID, "echo", "ran"); got.out != "ran\n" || got.Code != 0 {
				t.Errorf("exec: %+v", got)
			}
			_, err := w.e.Exec(t.Context(), engine.ExecRequest{Container: c.ID, Command: []string{"id"}, User: "ann"},
				stdio())
			if err == nil || !strings.Contains(err.Error(), `user "ann"`) {
				t.Errorf("exec as a user that is nowhere: %v", err)
			}
		})
	}
}

func TestExecWithEndlessAccounts(t *testing.T) {
	w := newWorld(t)
	c := w.start(engine.Spec{Command: sh("truncate -s 1099511627776 /etc/passwd; touch /ready; sleep 1000")})
	var err error
	await.True(t, "the file has grown", func() bool {
		_, err = w.e.Exec(t.Context(), engine.ExecRequest{Container: c.ID, Command: []string{"true"}}, stdio())
		return err != nil
	})
	if err == nil || !strings.Contains(err.Error(), "/etc/passwd") || !strings.Contains(err.Error(), "limit") {
		t.Errorf("exec: %v", err)
	}
}

func TestEndlessGeneratedFilesAreLeftAlone(t *testing.T) {
	w := newWorld(t)
	c := w.start(engine.Spec{Command: []string{"sleep", "1000"}, Hostname: "loom"})
	grow := sh("for f in hosts hostname resolv.conf; do truncate -s 1099511627776 /etc/$f; done")
	if got := w.exec(c.ID, grow...); got.Code != 0 {
		t.Fatalf("%+v", got)
	}
	ends := []cnm.Endpoint{{Addrs: []netip.Prefix{netip.MustParsePrefix("10.1.2.3/24")}}}
	if err := w.e.NetworksChanged(t.Context(), c.Sandbox, ends); err != nil {
		t.Fatal(err)
	}
	size := w.exec(c.ID, "stat", "-c", "%s", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf").out
	if want := strings.Repeat("1099511627776\n", 3); size != want {
		t.Errorf("sizes are %q, want what the container made of them", size)
	}
	shared := w.start(engine.Spec{Command: []string{"sleep", "1000"},
		Networks: []cnm.AttachRequest{{Network: "container:" + c.ID}}})
	if got := w.exec(shared.ID, "hostname"); strings.TrimSpace(got.out) != cnm.Short(shared.ID) {
		t.Errorf("a hostname that is no name was taken over: %+v", got)
	}
}

func stdio() engine.Stdio { return engine.Stdio{Started: func(engine.Started) error { return nil }} }
