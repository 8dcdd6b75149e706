package plugin_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vethloom/vethloom/drivers/remote/plugin"
	"github.com/vethloom/vethloom/internal/plugintest"
)

func TestMain(m *testing.M) {
	plugintest.Main()
	m.Run()
}

// dirs makes empty folders.
func dirs(t *testing.T) plugin.Dirs {
	return plugin.Dirs{Sockets: []string{t.TempDir()}, Specs: []string{t.TempDir(), t.TempDir()}}
}

// says serves a plugin that answers each method with a text.
func says(t *testing.T, answers map[string]string) *httptest.Server {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[strings.TrimPrefix(r.URL.Path, "/")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, answer)
	}))
	t.Cleanup(s.Close)
	return s
}

func activates(t *testing.T) *httptest.Server {
	return says(t, map[string]string{"Plugin.Activate": `{"Implements": ["NetworkDriver"]}`,
		"NetworkDriver.GetCapabilities": `{"Scope": "local"}`})
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A plugin is found in every folder and form, the socket first.
func TestFindEverywhere(t *testing.T) {
	s := activates(t)
	s.Start()
	secure := activates(t)
	secure.StartTLS()
	tcp, tls := s.Listener.Addr().String(), secure.Listener.Addr().String()
	d := dirs(t)
	write(t, d.Specs[0]+"/spec.spec", "tcp://"+tcp+"\n")
	write(t, d.Specs[1]+"/deep/deep.spec", "http://"+tcp)
	write(t, d.Specs[1]+"/json.json", fmt.Sprintf(`{"Name": "json", "Addr": "tcp://%s"}`, tcp))
	write(t, d.Specs[0]+"/deepjson/deepjson.json", fmt.Sprintf(`{"Addr": "tcp://%s"}`, tcp))
	write(t, d.Specs[0]+"/tls.json",
		fmt.Sprintf(`{"Name": "tls", "Addr": "https://%s", "TLSConfig": {"InsecureSkipVerify": true}}`, tls))
	write(t, d.Specs[0]+"/strict.json", fmt.Sprintf(`{"Addr": "tcp://%s", "TLSConfig": {}}`, tls))
	write(t, d.Specs[0]+"/noca.json", fmt.Sprintf(`{"Addr": "tcp://%s", "TLSConfig": {"CAFile": "/nope"}}`, tls))
	write(t, d.Specs[0]+"/both.spec", "tcp://127.0.0.1:1")
	for _, path := range []string{d.Sockets[0] + "/sock.sock", d.Sockets[0] + "/sub/sub.sock",
		d.Sockets[0] + "/both.sock"} {
		u := activates(t)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		u.Listener.Close()
		u.Listener = l
		u.Start()
	}
	f := plugin.NewFinder(plugin.Config{Dirs: d, Wait: 10 * time.Second})
	for _, name := range []string{"spec", "deep", "json", "deepjson", "tls", "sock", "sub", "both"} {
		p, err := f.Find(t.Context(), name, plugin.NetworkDriver)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c, err := p.Network().Capabilities(t.Context()); err != nil || c.ConnectivityScope != "local" {
			t.Errorf("%s: %v, %v", name, c, err)
		}
	}
	for name, want := range map[string]string{"strict": "certificate", "noca": "CAFile", "a/b": "has '/'"} {
		if _, err := f.Find(t.Context(), name, plugin.NetworkDriver); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if _, err := f.Find(t.Context(), "sock", plugin.IPAMDriver); err == nil ||
		!strings.Contains(err.Error(), "it says that it is NetworkDriver, and no IpamDriver") {
		t.Errorf("another kind of driver: %v", err)
	}
	_, err := f.Find(t.Context(), "none", plugin.NetworkDriver)
	for _, want := range []string{d.Sockets[0], d.Specs[0], d.Specs[1], "none.sock", "none.spec", "none.json"} {
		if !errors.Is(err, plugin.ErrNoPlugin) || !strings.Contains(err.Error(), want) {
			t.Errorf("no plugin: %v, want %q", err, want)
		}
	}
}

// Files that have no address, or are none, are told of.
func TestMalformedSpecs(t *testing.T) {
	d := dirs(t)
	dir := d.Specs[0]
	write(t, dir+"/empty.spec", "")
	write(t, dir+"/relative.spec", "unix://run/x.sock")
	write(t, dir+"/portless.spec", "tcp://127.0.0.1")
	write(t, dir+"/scheme.spec", "ftp://127.0.0.1:21")
	write(t, dir+"/text.json", "what?")
	write(t, dir+"/types.json", `{"Addr": 7}`)
	write(t, dir+"/long.spec", strings.Repeat("x", 100_000))
	write(t, dir+"/gone.spec", "unix:///nope/x.sock")
	write(t, d.Sockets[0]+"/file.sock", "no socket")
	if err := syscall.Mkfifo(dir+"/pipe.spec", 0o600); err != nil {
		t.Fatal(err)
	}
	f := plugin.NewFinder(plugin.Config{Dirs: d, Wait: time.Second})
	for name, want := range map[string]string{
		"empty": "want unix:///PATH", "relative": "want unix:///PATH", "portless": "tcp://HOST:PORT",
		"scheme": "want unix:///PATH", "text": "invalid character", "types": "cannot unmarshal", "long": "longer than",
		"gone": "no such file", "file": "no such plugin", "pipe": "not a regular file",
	} {
		_, err := f.Find(t.Context(), name, plugin.NetworkDriver)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// open starts the test's plugin and activates it.
func open(t *testing.T, wait time.Duration) (*plugintest.Process, *plugin.Finder, *plugin.Plugin) {
	t.Helper()
	d := dirs(t)
	proc := plugintest.Start(t, d.Sockets[0]+"/p.sock", nil)
	f := plugin.NewFinder(plugin.Config{Dirs: d, Wait: wait})
	p, err := f.Find(t.Context(), "p", plugin.NetworkDriver)
	if err != nil {
		t.Fatal(err)
	}
	return proc, f, p
}

// Every method has a request and an answer that both sides understand.
func TestEveryMethod(t *testing.T) {
	proc, _, p := open(t, time.Minute)
	n, m := p.Network(), p.IPAM()
	lie := func(method, answer string) {
		proc.Behave(plugintest.Fault{Method: method, How: plugintest.Answer, Answer: answer})
	}
	for _, method := range []string{"CreateNetwork", "DeleteNetwork", "DeleteEndpoint", "Leave"} {
		lie("NetworkDriver."+method, "{}")
	}
	lie("NetworkDriver.CreateEndpoint", `{"Interface": {"MacAddress": "02:00:00:00:00:01"}}`)
	lie("NetworkDriver.Join", `{"InterfaceName": {"SrcName": "x", "DstPrefix": "eth"}, "Gateway": "10.0.0.1",
		"StaticRoutes": [{"Destination": "10.1.0.0/16", "RouteType": 1}], "DisableGatewayService": true}`)
	lie("NetworkDriver.GwAllocCheck", `{"SkipIPv6": true}`)
	lie("NetworkDriver.ProgramExternalConnectivity", "{}")
	ctx := t.Context()
	ok := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	options, err := n.AllocateNetwork(ctx, "n", map[string]string{"a": "b"}, nil, nil)
	if err != nil || options["vni"] != "7" {
		t.Errorf("AllocateNetwork: %v, %v", options, err)
	}
	ok("FreeNetwork", n.FreeNetwork(ctx, "n"))
	ok("CreateNetwork", n.CreateNetwork(ctx, plugin.NetworkConfig{NetworkID: "n",
		IPv4Data: []plugin.IPData{{AddressSpace: "local", Pool: "10.0.0.0/24", Gateway: "10.0.0.1/24"}}}))
	if got, want := proc.Last("NetworkDriver.CreateNetwork"), `"IPv4Data":[{"AddressSpace":"local",`+
		`"Pool":"10.0.0.0/24","Gateway":"10.0.0.1/24"}]`; !strings.Contains(got, want) {
		t.Errorf("CreateNetwork sent %s", got)
	}
	skip4, skip6, err := n.GwAllocCheck(ctx, nil)
	if err != nil || skip4 || !skip6 {
		t.Errorf("GwAllocCheck: %v %v %v", skip4, skip6, err)
	}
	i, err := n.CreateEndpoint(ctx, plugin.EndpointConfig{NetworkID: "n", EndpointID: "e",
		Interface: &plugin.Interface{Address: "10.0.0.2/24"}})
	if err != nil || i.MacAddress != "02:00:00:00:00:01" {
		t.Errorf("CreateEndpoint: %v, %v", i, err)
	}
	info, err := n.EndpointOperInfo(ctx, "n", "e")
	if err != nil || info["id"] != "e" {
		t.Errorf("EndpointOperInfo: %v, %v", info, err)
	}
	j, err := n.Join(ctx, plugin.JoinConfig{NetworkID: "n", EndpointID: "e", SandboxKey: "/k"})
	if err != nil || j.InterfaceName.SrcName != "x" || j.Gateway != "10.0.0.1" || len(j.StaticRoutes) != 1 ||
		!j.DisableGatewayService {
		t.Errorf("Join: %v, %v", j, err)
	}
	ok("ProgramExternalConnectivity", n.ProgramExternalConnectivity(ctx, "n", "e", map[string]any{"p": 1}))
	lie("NetworkDriver.RevokeExternalConnectivity", "{}")
	ok("RevokeExternalConnectivity", n.RevokeExternalConnectivity(ctx, "n", "e"))
	ok("Leave", n.Leave(ctx, "n", "e"))
	ok("DeleteEndpoint", n.DeleteEndpoint(ctx, "n", "e"))
	ok("DeleteNetwork", n.DeleteNetwork(ctx, "n"))
	ok("DiscoverNew", n.DiscoverNew(ctx, plugin.NodeDiscovery, plugin.Node{Address: "192.0.2.1", Self: true}))
	ok("DiscoverDelete", n.DiscoverDelete(ctx, plugin.NodeDiscovery, plugin.Node{Address: "192.0.2.1"}))

	_, err = m.Capabilities(ctx)
	ok("IPAM GetCapabilities", err)
	local, global, err := m.DefaultAddressSpaces(ctx)
	if err != nil || local != "here" || global != "there" {
		t.Errorf("GetDefaultAddressSpaces: %s %s %v", local, global, err)
	}
	pool, err := m.RequestPool(ctx, plugin.PoolConfig{AddressSpace: local, Options: map[string]string{"k": "v"}})
	if err != nil || pool.Pool != "10.77.0.0/24" {
		t.Fatalf("RequestPool: %v, %v", pool, err)
	}
	a, err := m.RequestAddress(ctx, pool.PoolID, "", nil)
	if err != nil || a.Address != "10.77.0.1/24" {
		t.Errorf("RequestAddress: %v, %v", a, err)
	}
	ok("ReleaseAddress", m.ReleaseAddress(ctx, pool.PoolID, "10.77.0.1"))
	ok("ReleasePool", m.ReleasePool(ctx, pool.PoolID))
	if refused, is := errors.AsType[*plugin.Refusal](m.ReleasePool(ctx, pool.PoolID)); !is ||
		!strings.Contains(refused.Error(), "is unknown") {
		t.Errorf("a refusal: %v", refused)
	}
}

// Whatever a plugin does, a call ends in time, with an error that says what happened.
func TestHostilePlugins(t *testing.T) {
	proc, f, p := open(t, 2*time.Second)
	const method = "NetworkDriver.GetCapabilities"
	for how, want := range map[string]string{
		plugintest.Hang:         "no answer within 2s",
		plugintest.Garbage:      "no JSON object",
		plugintest.Empty:        "the answer is empty",
		plugintest.Huge:         "longer than 1048576 bytes",
		plugintest.Status:       "status 500",
		plugintest.Refuse:       `refuses NetworkDriver.GetCapabilities: "not today"`,
		`{"Scope": "mars"}`:     `Scope is "mars"`,
		`{"Scope": "local"} {}`: "malformed",
		`{"Scope": 7}`:          "malformed",
		`[1]`:                   "no JSON object",
		`{"Scope": "local", "ConnectivityScope": "x"}`:               "want local or global",
		`{"Err": "` + strings.Repeat("\\u001b[31mlong ", 100) + `"}`: `\x1b[31mlong`,
	} {
		fault := plugintest.Fault{Method: method, How: how}
		if how[0] == '{' || how[0] == '[' {
			fault.How, fault.Answer = plugintest.Answer, how
		}
		proc.Behave(fault)
		_, err := p.Network().Capabilities(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 1000 {
			t.Errorf("%.40s: %v, want %q", how, err, want)
		}
	}
	proc.Behave(plugintest.Fault{Method: method, How: plugintest.Die})
	_, err := p.Network().Capabilities(t.Context())
	var call *plugin.CallError
	if !errors.As(err, &call) {
		t.Errorf("a plugin that dies: %v", err)
	}
	proc.Gone()
	if _, err := f.Find(t.Context(), "p", plugin.NetworkDriver); err == nil {
		t.Error("a plugin that has died is found")
	}
	proc.Start()
	if _, err := f.Find(t.Context(), "p", plugin.NetworkDriver); err != nil {
		t.Errorf("a plugin that came back: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Network().Capabilities(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that gave up: %v", err)
	}
}

// A plugin that leads elsewhere is not followed, and one that does not say what it is is none.
func TestActivation(t *testing.T) {
	d := dirs(t)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://192.0.2.1/elsewhere", http.StatusTemporaryRedirect)
	}))
	t.Cleanup(s.Close)
	write(t, d.Specs[0]+"/away.spec", "tcp://"+s.Listener.Addr().String())
	mute := says(t, map[string]string{"Plugin.Activate": `{}`})
	mute.Start()
	write(t, d.Specs[0]+"/mute.spec", "tcp://"+mute.Listener.Addr().String())
	f := plugin.NewFinder(plugin.Config{Dirs: d, Wait: 5 * time.Second})
	for name, want := range map[string]string{"away": "not followed", "mute": "it says that it is nothing"} {
		if _, err := f.Find(t.Context(), name, plugin.NetworkDriver); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}
