package cli_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/api/server/fake"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/cli"
	"github.com/vethloom/vethloom/internal/doctor"
	"github.com/vethloom/vethloom/internal/golden"
	"github.com/vethloom/vethloom/plan"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"net": func() {
			app := cli.New("1.0", "abc")
			app.Now = func() time.Time { return fake.Epoch.Add(5 * time.Minute) }
			app.Timeout = 2 * time.Second // on a busy machine
			os.Exit(app.Run(context.Background(), os.Args[1:]))
		},
	})
}

// netd is a served fake domain that can go away and come back.
type netd struct {
	domain *fake.Domain
	path   string
	stop   func() error
	// what serves networks in place of the domain; optional
	networks server.Networks
}

func (n *netd) start(ctx context.Context) error {
	networks := n.networks
	if networks == nil {
		networks = n.domain
	}
	srv, err := server.New(server.Config{
		Networks: networks, Nodes: n.domain, Leases: n.domain, Names: n.domain,
		Sandboxes: n.domain, Containers: n.domain,
		Images: n.domain, Volumes: n.domain, System: n.domain,
		Grace: 2 * time.Second,
	})
	if err != nil {
		return err
	}
	l, err := server.Listen(ctx, n.path)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, l) }()
	n.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	return nil
}

type netdKey struct{}

func TestScripts(t *testing.T) {
	defer goleak.VerifyNone(t)
	t.Run("scripts", func(t *testing.T) {
		testscript.Run(t, testscript.Params{
			Dir: "testdata/script", UpdateScripts: golden.Update(), RequireExplicitExec: true, RequireUniqueNames: true,
			Setup: func(e *testscript.Env) error {
				dir, err := os.MkdirTemp("", "net") // short: the socket's path has 107 bytes
				if err != nil {
					return err
				}
				n := &netd{domain: fake.New(), path: filepath.Join(dir, "s")}
				e.Values[netdKey{}] = n
				e.Vars = append(e.Vars, "VETHLOOM_HOST=unix://"+n.path, "SOCKET_DIR="+dir)
				e.Defer(func() {
					if err := n.stop(); err != nil {
						e.T().Fatal(err)
					}
					n.domain.Close()
					os.RemoveAll(dir)
				})
				return n.start(context.Background())
			},
			Cmds: map[string]func(*testscript.TestScript, bool, []string){
				"netd":    netdCommand,
				"differs": differs,
				"finds":   finds,
				"fails":   fails,
				"emit":    emit,
				"listen":  listen,
				"status":  exitStatus,
				"until":   until,
				"ends":    ends,
				"tells":   tells,
				"cluster": clustered,
				"seen":    seen,
				"changed": changed,
				"damaged": damaged,
				"holds":   holds,
			},
		})
	})
}

// exitStatus CODE COMMAND… runs a command that must end with that code.
func exitStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status CODE COMMAND [ARG...]")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("exit status %s, want %s", got, args[0])
	}
}

// netd stop|start: the daemon goes away, or comes back with what it had.
func netdCommand(ts *testscript.TestScript, _ bool, args []string) {
	n := ts.Value(netdKey{}).(*netd)
	switch strings.Join(args, " ") {
	case "stop":
		ts.Check(n.stop())
	case "start":
		ts.Check(n.start(context.Background()))
	default:
		ts.Fatalf("usage: netd stop|start")
	}
}

// differs makes net diff find something.
func differs(ts *testscript.TestScript, _ bool, _ []string) {
	eth0 := func(mtu int) plan.Link {
		return plan.Link{Owner: "endpoint/91bc", NS: "box", Name: "eth0", Kind: plan.Veth, MTU: mtu, Up: true,
			Peer: plan.VethPeer{Name: "vle-91bc"}}
	}
	ts.Value(netdKey{}).(*netd).domain.SetDiff(
		plan.Op{Verb: plan.Create, Object: plan.Link{Owner: "network/3f2a", Name: "vlb-3f2a", Kind: plan.Bridge,
			MTU: 1500, Up: true}},
		plan.Op{Verb: plan.Modify, Object: eth0(1400), Old: eth0(1500)},
		plan.Op{Verb: plan.Delete, Object: plan.Route{Dst: netip.MustParsePrefix("10.0.0.0/8"),
			Via: netip.MustParseAddr("10.0.0.1")}},
	)
}

// finds SEVERITY makes net doctor find something besides.
func finds(ts *testscript.TestScript, _ bool, args []string) {
	ts.Value(netdKey{}).(*netd).domain.SetFindings(
		doctor.Finding{Check: "kernel", Severity: doctor.OK, Found: "Linux 6.18"},
		doctor.Finding{Check: "forwarding", Severity: doctor.Severity(args[0]), Found: "net.ipv4.ip_forward is 0",
			Remedy: "sysctl -w net.ipv4.ip_forward=1"},
	)
}

// fails METHOD KIND TEXT makes a method of the domain fail.
func fails(ts *testscript.TestScript, _ bool, args []string) {
	kinds := map[string]error{"exhausted": cnm.ErrExhausted, "inuse": cnm.ErrInUse, "unavailable": cnm.ErrUnavailable,
		"none": nil}
	kind, ok := kinds[args[1]]
	if !ok {
		ts.Fatalf("unknown kind %q", args[1])
	}
	var err error
	if kind != nil {
		err = &cnm.Error{Kind: kind, Reason: args[2]}
	}
	ts.Value(netdKey{}).(*netd).domain.Fail(args[0], err)
}

// emit TYPE ACTION ID makes an event happen.
func emit(ts *testscript.TestScript, _ bool, args []string) {
	ts.Value(netdKey{}).(*netd).domain.Emit(server.Event{
		Time: fake.Epoch, Type: args[0], Action: args[1], ID: args[2], Attributes: map[string]string{"name": "web"},
	})
}

// listen PATH makes a socket that accepts and never answers, until the script ends.
func listen(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("unix", args[0])
	ts.Check(err)
	var conns []net.Conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns = append(conns, c)
		}
	}()
	ts.Defer(func() {
		l.Close()
		<-done
		for _, c := range conns {
			c.Close()
		}
	})
}

// until CONTAINER attached, or until watched, waits for a client to be there.
func until(ts *testscript.TestScript, _ bool, args []string) {
	n := ts.Value(netdKey{}).(*netd)
	there := func() bool { return n.domain.Clients(args[0]) > 0 }
	switch args[0] {
	case "watched":
		there = func() bool { return n.domain.Watchers.Load() > 0 }
	case "waited": // by two
		there = func() bool { return n.domain.Waiters.Load() == 2 }
	}
	if !await.Holds(there) {
		ts.Fatalf("nobody came: %v", args)
	}
}

// ends CONTAINER SIGNAL ends a container behind the daemon's back.
func ends(ts *testscript.TestScript, _ bool, args []string) {
	n := ts.Value(netdKey{}).(*netd)
	ts.Check(n.domain.Kill(context.Background(), args[0], args[1]))
	_, err := n.domain.Wait(context.Background(), args[0], "", nil)
	ts.Check(err)
}

// tells CONTAINER SIGNAL signals a container behind the daemon's back.
func tells(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Value(netdKey{}).(*netd).domain.Kill(context.Background(), args[0], args[1]))
}

// seen HOST:USER… says whose credentials came with the latest request to a registry.
func seen(ts *testscript.TestScript, _ bool, args []string) {
	var have []string
	for _, c := range ts.Value(netdKey{}).(*netd).domain.Seen() {
		have = append(have, c.Host+":"+c.Username)
	}
	if !slices.Equal(have, args) {
		ts.Fatalf("netd was given credentials of %q, want %q", have, args)
	}
}

// changed KIND PATH… is what every container has changed.
func changed(ts *testscript.TestScript, _ bool, args []string) {
	var list []server.FileChange
	for pair := range slices.Chunk(args, 2) {
		list = append(list, server.FileChange{Kind: pair[0], Path: strings.ReplaceAll(pair[1], `\n`, "\n")})
	}
	ts.Value(netdKey{}).(*netd).domain.SetChanges(list...)
}

// damaged OBJECT PROBLEM REMEDY is something more that a check finds.
func damaged(ts *testscript.TestScript, _ bool, args []string) {
	ts.Value(netdKey{}).(*netd).domain.AddDamage(image.Damage{Object: args[0], Problem: args[1], Remedy: args[2],
		Images: []string{"busybox:latest"}})
}

// holds ENTRY… is what is copied out of every container: DIR/, FILE, LINK->TARGET, or LINK=>FILE of two names.
func holds(ts *testscript.TestScript, _ bool, args []string) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	mode := fs.FileMode(0o644)
	for i, entry := range args {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: entry, Mode: 0o644, Size: int64(len("content\n"))}
		name, target, isLink := strings.Cut(entry, "->")
		hard, file, isHard := strings.Cut(entry, "=>")
		switch {
		case isLink:
			h = &tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
		case isHard:
			h = &tar.Header{Typeflag: tar.TypeLink, Name: hard, Linkname: file}
		case strings.HasSuffix(entry, "/"):
			h = &tar.Header{Typeflag: tar.TypeDir, Name: entry, Mode: 0o755}
			if i == 0 {
				mode |= fs.ModeDir
			}
		}
		ts.Check(w.WriteHeader(h))
		if h.Size > 0 {
			_, err := io.WriteString(w, "content\n")
			ts.Check(err)
		}
	}
	ts.Check(w.Close())
	ts.Value(netdKey{}).(*netd).domain.SetArchive(b.Bytes(), mode)
}

func TestScriptsCoverEveryCommand(t *testing.T) {
	var text strings.Builder
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(b)
	}
	root := cli.New("", "").Root()
	for _, path := range commandPaths(root) {
		if find(root, path).Annotations[cli.TwinOf] != "" {
			continue
		}
		if !strings.Contains(text.String(), "exec "+path) && !strings.Contains(text.String(), " "+path) {
			t.Errorf("no script runs %q", path)
		}
	}
	if len(files) == 0 {
		t.Error(fmt.Errorf("no scripts"))
	}
}
