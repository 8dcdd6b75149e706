package etcd_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/etcd"
	"github.com/vethloom/vethloom/internal/etcd/embedded"
	"github.com/vethloom/vethloom/internal/etcd/etcdtest"
)

// patience is how long what must happen may take.
const patience = await.Patience

// childEnv has a copy of the test binary be an etcd instead of testing.
const childEnv = "ETCD_TEST_MEMBER"

func TestMain(m *testing.M) {
	if spec := os.Getenv(childEnv); spec != "" {
		if err := serve(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// member is an etcd to be run by a process of its own.
type member struct {
	Name, Dir, Client string
	Peer, Cluster     string // of a cluster of several; "": a single member
}

// serve runs until stdin ends, which it does with the process that tests.
func serve(spec string) error {
	var m member
	if err := json.Unmarshal([]byte(spec), &m); err != nil {
		return err
	}
	if m.Cluster == "" {
		s, err := embedded.Start(context.Background(), embedded.Config{Dir: m.Dir, ClientURLs: []string{m.Client}})
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, os.Stdin)
		return errors.Join(err, s.Close())
	}
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir, cfg.InitialCluster = m.Name, m.Dir, m.Cluster
	cfg.TickMs, cfg.ElectionMs = 50, 500
	peer, err := url.Parse(m.Peer)
	if err != nil {
		return err
	}
	client, err := url.Parse(m.Client)
	if err != nil {
		return err
	}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	defer e.Close()
	for words := bufio.NewScanner(os.Stdin); words.Scan(); {
		for _, m := range e.Server.Cluster().Members() {
			switch words.Text() {
			case "cut":
				e.Server.CutPeer(m.ID)
			case "mend":
				e.Server.MendPeer(m.ID)
			}
		}
	}
	return nil
}

// process is a running member.
type process struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser // "cut" and "mend" end and resume the member's talk with the others
}

func spawn(t *testing.T, m member) *process {
	t.Helper()
	spec, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(exe)}
	p.cmd.Env = append(os.Environ(), childEnv+"="+string(spec))
	p.cmd.Stderr = os.Stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

// tell has a member of a cluster do something.
func (p *process) tell(t *testing.T, word string) {
	t.Helper()
	if _, err := fmt.Fprintln(p.stdin, word); err != nil {
		t.Fatal(err)
	}
}

// signal sends one to the member.
func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// kill is kill -9.
func (p *process) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait() // says that it was killed
	}
}

// dialSocket connects to a unix socket.
func dialSocket(t *testing.T, path string) *clientv3.Client {
	t.Helper()
	return etcdtest.Dial(t, etcd.Config{Endpoints: []string{"unix://" + path}})
}

// shortDir is a directory whose name leaves room for a socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "etcd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func socket(t *testing.T) string { return filepath.Join(shortDir(t), "s") }

// eventually waits for what another process does.
func eventually(t *testing.T, what string, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}

// put writes, again if need be: etcd may be on its way.
func put(t *testing.T, c *clientv3.Client, key, value string) {
	t.Helper()
	eventually(t, "put "+key, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, patience/3) // checking a password is slow on purpose
		defer cancel()
		_, err := c.Put(ctx, key, value)
		return err
	})
}

func del(t *testing.T, c *clientv3.Client, key string) {
	t.Helper()
	if _, err := c.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
}
