package plugintest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/await"
)

// socketVar names the socket of a process that is to be the plugin.
const socketVar = "VETHLOOM_TEST_PLUGIN"

// Main is called first by the TestMain of packages whose tests start the plugin: in a process that was started to be
// it, it serves and does not return.
func Main() {
	path := os.Getenv(socketVar)
	if path == "" {
		return
	}
	if err := serve(path); err != nil {
		fmt.Fprintln(os.Stderr, "plugin:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Process is a running plugin.
type Process struct {
	Socket string

	tb   testing.TB
	run  func(func() error) error
	cmd  *exec.Cmd
	gone chan error
	errs bytes.Buffer
}

// Start starts the plugin, which listens on a socket at path and keeps what it has made in a file beside it. run starts
// a process in the right network namespace; nil: that of the caller. The plugin ends with the test.
func Start(tb testing.TB, path string, run func(start func() error) error) *Process {
	tb.Helper()
	if run == nil {
		run = func(start func() error) error { return start() }
	}
	p := &Process{Socket: path, tb: tb, run: run}
	p.Start()
	tb.Cleanup(p.Kill)
	return p
}

// Start starts a plugin that was killed, or has ended itself, again.
func (p *Process) Start() {
	p.tb.Helper()
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), socketVar+"="+p.Socket)
	p.cmd.Stderr = &p.errs
	p.gone = make(chan error, 1)
	if err := p.run(p.cmd.Start); err != nil {
		p.tb.Fatalf("start the plugin: %v", err)
	}
	go func(cmd *exec.Cmd, gone chan<- error) { gone <- cmd.Wait(); close(gone) }(p.cmd, p.gone)
	await.True(p.tb, "the plugin listens", func() bool {
		c, err := net.Dial("unix", p.Socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// Kill ends the plugin at once.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	p.Gone()
}

// Gone waits until the plugin has ended.
func (p *Process) Gone() {
	p.tb.Helper()
	await.From(p.tb, "the plugin ends", p.gone)
}

// Fault says how the plugin behaves in the next calls of a method.
type Fault struct {
	Method string // "NetworkDriver.Join"
	// How is what it does: hang, hang-after (it does what it is asked), die, die-after, garbage, empty, huge, status,
	// refuse, or lie: answer with Answer after it has done what it is asked, or answer with Answer alone.
	How    string
	Answer string // of lie and answer
	Times  int    // of calls; 0: all
}

// The faults that do what is asked first.
const (
	Hang      = "hang"
	HangAfter = "hang-after"
	Die       = "die"
	DieAfter  = "die-after"
	Garbage   = "garbage"
	Empty     = "empty"
	Huge      = "huge"
	Status    = "status"
	Refuse    = "refuse"
	Lie       = "lie"
	Answer    = "answer"
)

// Behave has the plugin behave so. A fault without How ends what was said of its method.
func (p *Process) Behave(f Fault) {
	p.tb.Helper()
	b, err := json.Marshal(f)
	if err != nil {
		p.tb.Fatal(err)
	}
	p.post("/test/behave", b)
}

// Calls are the methods that were called since the plugin has started, in their order, and Made what it has now.
func (p *Process) Calls() string {
	p.tb.Helper()
	return strings.TrimSpace(p.post("/test/calls", nil))
}

// Made is what the plugin has now, one thing a line.
func (p *Process) Made() string {
	p.tb.Helper()
	return strings.TrimSpace(p.post("/test/made", nil))
}

// Last is the body of the last call of a method.
func (p *Process) Last(method string) string {
	p.tb.Helper()
	return p.post("/test/last", []byte(method))
}

func (p *Process) post(path string, body []byte) string {
	p.tb.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", p.Socket)
		}}}
	resp, err := client.Post("http://plugin"+path, "application/json", bytes.NewReader(body))
	if err != nil {
		p.tb.Fatalf("ask the test's plugin: %v\n%s", err, &p.errs)
	}
	defer resp.Body.Close()
	var out bytes.Buffer
	if _, err := out.ReadFrom(resp.Body); err != nil {
		p.tb.Fatal(err)
	}
	return out.String()
}
