package single

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/plugintest"
)

// withPlugin starts a node and a plugin beside it, called testplugin.
func withPlugin(t *testing.T, flags ...string) (*node, *plugintest.Process) {
	t.Helper()
	dir := t.TempDir()
	n := withImage(t, append([]string{"--plugins", dir, "--plugin-wait", "2s"}, flags...)...)
	return n, plugintest.Start(t, dir+"/testplugin.sock", func(start func() error) error { return n.Do("", start) })
}

// clean removes what there is and finds nothing of the plugin's left.
func clean(n *node, p *plugintest.Process) {
	n.t.Helper()
	if ids := strings.Fields(n.net("ps", "-aq").out); len(ids) > 0 {
		n.ok(append([]string{"rm", "-f"}, ids...)...)
	}
	n.net("network", "rm", "far")
	await.Value(n.t, "what the plugin has", "", p.Made)
	await.Value(n.t, "links of the plugin", "", func() string {
		return strings.TrimSpace(n.Sh("ip -o link | grep -o 'tp[bhc][0-9a-f]*' || true"))
	})
}

// Containers on a network that a plugin makes reach each other and the plugin's gateway, over the death of netd and of
// the plugin; then nothing is left.
func TestNetworkOfAPlugin(t *testing.T) {
	n, p := withPlugin(t)
	n.ok("network", "create", "-d", "testplugin", "--subnet", "10.7.0.0/24", "-o", "color=blue", "far")
	matches(t, "what the plugin was told", p.Last("NetworkDriver.CreateNetwork"),
		`"com.docker.network.generic":\{"color":"blue"\}`)
	n.ok("run", "-d", "--name", "a", "--network", "far", "bb", "sleep", "1000")
	n.ok("run", "-d", "--name", "b", "--network", "far", "-p", "8080:80", "--mac-address", "02:00:00:00:00:0b", "bb",
		"sleep", "1000")
	matches(t, "ports", p.Last("NetworkDriver.ProgramExternalConnectivity"),
		`"com.docker.network.portmap":\[\{"Proto":6,"IP":"","Port":80,"HostIP":"","HostPort":8080,"HostPortEnd":8080`)
	is(t, "link of b", n.inside("b")("ip -o link show tp0 | grep -o 'mtu 1400\\|02:00:00:00:00:0b' | tr '\\n' ' '"),
		"mtu 1400 02:00:00:00:00:0b ")
	is(t, "routes", n.inside("a")("ip route"), "default via 10.7.0.1 dev tp0 proto 117 onlink \n"+
		"10.7.0.0/24 dev tp0 proto kernel scope link src 10.7.0.2 \n"+
		"198.51.100.0/24 via 10.7.0.1 dev tp0 proto 117 metric 32001 onlink \n")
	reach := func() {
		t.Helper()
		n.ok("exec", "a", "ping", "-c1", "-W5", "10.7.0.3")
		n.ok("exec", "b", "ping", "-c1", "-W5", "10.7.0.1") // the plugin's bridge
		is(t, "net diff", n.ok("diff"), "")
	}
	reach()
	matches(t, "inspect", n.ok("inspect", "-f", "{{.NetworkSettings.Networks.far.MacAddress}}", "a"), "^02:77:")
	n.ok("port", "add", "b", "-p", "9090:90")
	matches(t, "further ports", p.Last("NetworkDriver.ProgramExternalConnectivity"), `"HostPort":8080.*"HostPort":9090`)
	n.ok("port", "rm", "b", "8080:80")
	matches(t, "fewer ports", p.Last("NetworkDriver.ProgramExternalConnectivity"), `portmap":\[\{"Proto":6,"IP":"",`+
		`"Port":90,"HostIP":"","HostPort":9090,"HostPortEnd":9090\}\]`)
	calls := p.Calls()
	n.restart()
	reach()
	is(t, "calls after a start of netd", p.Calls(), calls)
	p.Kill()
	n.restart()
	reach()
	n.refuses(refusal{"run --rm --network far bb true", 125, `testplugin.*does not do what it is asked`})
	p.Start()
	n.ok("run", "--rm", "--network", "far", "bb", "ping", "-c1", "-W5", "10.7.0.2")
	n.refuses(refusal{"network rm far", 1, "in use by (a, b|b, a)"})
	n.ok("network", "disconnect", "far", "b")
	n.ok("network", "connect", "--ip", "10.7.0.77", "far", "b")
	n.ok("exec", "b", "ping", "-c1", "-W5", "10.7.0.2")
	n.ok("stop", "-t", "0", "a")
	n.ok("start", "a")
	n.ok("exec", "a", "ping", "-c1", "-W5", "10.7.0.77")
	clean(n, p)
}

// Without a plugin of the name it is told where one was looked for.
func TestNoPluginOfThatName(t *testing.T) {
	n, _ := withPlugin(t)
	n.refuses(refusal{"network create -d weave x", 1, `driver "weave": there is no such driver: no such plugin: ` +
		`looked for weave.sock in .*weave.json.*; choose one of "bridge"`})
	is(t, "networks", n.ok("network", "ls", "-q", "--filter", "name=x"), "")
}

// When netd is killed while it asks a plugin, whether the plugin does what it is asked or not, the next netd finishes
// it or takes it back.
func TestNetdDiesWhileItAsksAPlugin(t *testing.T) {
	n, p := withPlugin(t)
	create := "network create -d testplugin --subnet 10.7.0.0/24 far"
	run := "run -d --name c --network far bb sleep 1000"
	for _, c := range []struct{ method, before, asks string }{
		{"CreateNetwork", "", create},
		{"CreateEndpoint", create, run},
		{"Join", create, run},
		{"ProgramExternalConnectivity", create, run},
		{"RevokeExternalConnectivity", create + "\n" + run, "rm -f c"},
		{"Leave", create + "\n" + run, "rm -f c"},
		{"DeleteEndpoint", create + "\n" + run, "network disconnect far c"},
		{"DeleteNetwork", create, "network rm far"},
	} {
		for _, how := range []string{plugintest.Hang, plugintest.HangAfter} {
			for line := range strings.Lines(c.before) {
				n.ok(strings.Fields(line)...)
			}
			method := "NetworkDriver." + c.method
			p.Behave(plugintest.Fault{Method: method, How: how, Times: 1})
			before := strings.Count(p.Calls(), method)
			s := n.session(nil, strings.Fields(c.asks)...)
			n.eventually("netd asks for "+c.method, func() bool { return strings.Count(p.Calls(), method) > before })
			n.restart()
			await.From(t, "net ends", s.code)
			agreed := func() string { return differs(n, p) }
			await.Value(t, c.method+" "+how+": netd and the plugin differ", "", agreed)
			if n.net("network", "inspect", "far").code != 0 {
				n.ok(strings.Fields(create)...)
			}
			n.ok("run", "--rm", "--network", "far", "bb", "ping", "-c1", "-W5", "10.7.0.1")
			is(t, "net diff", n.ok("diff"), "")
			clean(n, p)
		}
	}
}

// differs says where what netd has of the plugin's networks and what the plugin has differ.
func differs(n *node, p *plugintest.Process) string {
	var want []string
	for id := range strings.FieldsSeq(n.ok("network", "ls", "--no-trunc", "-q", "--filter", "driver=testplugin")) {
		want = append(want, "network "+id[:12])
		ends := n.ok("network", "inspect", "-f", "{{range .Containers}}{{.EndpointID}} {{end}}", id)
		for e := range strings.FieldsSeq(ends) {
			want = append(want, "endpoint "+e[:12]+" joined external")
		}
	}
	slices.Sort(want)
	if got := p.Made(); got != strings.Join(want, "\n") {
		return fmt.Sprintf("netd has %q, the plugin %q", want, got)
	}
	return ""
}

// Whatever a plugin does, the answer is an error that says so, in time, and neither side keeps anything; the host keeps
// its links.
func TestHostilePlugin(t *testing.T) {
	n, p := withPlugin(t)
	n.Sh(`ip link add uplink0 type veth peer name uplink1
		ip addr add 192.0.2.1/24 dev uplink0; ip link set uplink0 up`)
	defer n.Sh("ip link del uplink0")
	n.ok("network", "create", "--subnet", "10.8.0.0/24", "ours")
	n.ok("run", "-d", "--name", "other", "--network", "ours", "bb", "sleep", "1000")
	vle := strings.TrimSpace(n.Sh("ip -o link | grep -o 'vle-[0-9a-f]*' | head -1"))
	links := n.Sh("ip -br link | sort")
	create := "network create -d testplugin --subnet 10.7.0.0/24 far"
	for how, words := range map[string]string{
		plugintest.Hang: "no answer within 2s", plugintest.HangAfter: "no answer within 2s",
		plugintest.Garbage: "no JSON object", plugintest.Empty: "answer is empty", plugintest.Huge: "longer than",
		plugintest.Status: "status 500", plugintest.Refuse: "not today",
	} {
		p.Behave(plugintest.Fault{Method: "NetworkDriver.CreateNetwork", How: how, Times: 1})
		n.refuses(refusal{create, 1, words})
		await.Value(t, how+": what the plugin has", "", p.Made)
	}
	n.ok(strings.Fields(create)...)
	network := p.Made()
	try := func(method string, f plugintest.Fault, words string) {
		t.Helper()
		f.Method, f.Times = "NetworkDriver."+method, 1
		p.Behave(f)
		n.refuses(refusal{"run --rm --network far bb true", 125, words})
		await.Value(t, method+" "+f.How+f.Answer+": what the plugin has", network, p.Made)
		if now := n.Sh("ip -br link | grep -v tpb | sort"); now != links {
			t.Errorf("links of the host were\n%s\nand are\n%s", links, now)
		}
	}
	for _, method := range []string{"CreateEndpoint", "Join", "ProgramExternalConnectivity"} {
		try(method, plugintest.Fault{How: plugintest.Hang}, "no answer within 2s")
		try(method, plugintest.Fault{How: plugintest.HangAfter}, "no answer within 2s")
		try(method, plugintest.Fault{How: plugintest.Garbage}, "no JSON object")
		try(method, plugintest.Fault{How: plugintest.Refuse}, "not today")
		try(method, plugintest.Fault{How: plugintest.Huge}, "longer than")
	}
	lie := func(method, answer, words string) {
		t.Helper()
		try(method, plugintest.Fault{How: plugintest.Lie, Answer: answer}, words)
	}
	for answer, words := range map[string]string{
		`{"Interface": {"Address": "10.9.0.1/24"}}`:            "has its addresses already",
		`{"Interface": {"AddressIPv6": "what"}}`:               "has its addresses already",
		`{"Interface": {"MacAddress": "01:00:00:00:00:01"}}`:   "no interface can have",
		`{"Interface": {"MacAddress": "\u001b[31m"}}`:          `\\x1b`,
		`{"Interface": {"MacAddress": ["02:00:00:00:00:01"]}}`: "malformed",
	} {
		lie("CreateEndpoint", answer, words)
	}
	named := func(link, rest string) string {
		return fmt.Sprintf(`{"InterfaceName": {"SrcName": %q, "DstPrefix": "eth"}%s}`, link, rest)
	}
	for link, words := range map[string]string{
		"": "names no link", "lo": "no link that a plugin can give", vle: "no link that a plugin can give",
		"nope": "host has none of the name", "a/b": "no link's name", "uplink0": "the host had it before",
		"uplink1": "the host had it before", strings.Repeat("x", 16): "no link's name",
	} {
		lie("Join", named(link, ""), words)
	}
	for rest, words := range map[string]string{
		`, "Gateway": "10.9.0.1"`:    "cannot be reached",
		`, "Gateway": "10.7.0.1/24"`: "no address of a gateway",
		`, "Gateway": "fd00::1"`:     "of the other family",
		`, "GatewayIPv6": "ff02::1"`: "no address of a gateway",
		`, "StaticRoutes": [{"Destination": "10.0.0.1/8", "NextHop": "10.7.0.1"}]`:  "bits beyond",
		`, "StaticRoutes": [{"Destination": "10.0.0.0/8", "NextHop": "10.9.0.1"}]`:  "cannot be reached",
		`, "StaticRoutes": [{"Destination": "10.0.0.0/8", "RouteType": 7}]`:         "of type 7",
		`, "StaticRoutes": [{"Destination": "127.0.0.0/8", "NextHop": "10.7.0.1"}]`: "nobody is reached at",
		`, "StaticRoutes": [{"Destination": "10.1.0.0/16", "NextHop": "fd00::1"}]`:  "cannot be reached",
		`, "StaticRoutes": {"Destination": "10.1.0.0/16"}`:                          "malformed",
		`, "StaticRoutes": [` + strings.Repeat(`{"Destination":"x"},`, 64) + `{}]`:  "65 static routes",
	} {
		lie("Join", named("x", rest), words)
	}
	p.Behave(plugintest.Fault{Method: "NetworkDriver.Join", How: plugintest.DieAfter, Times: 1})
	n.refuses(refusal{"run --rm --network far bb true", 125, "testplugin"})
	p.Gone()
	p.Start()
	await.Value(t, "what the plugin has", network, p.Made)
	n.ok("run", "--rm", "--network", "far", "bb", "ping", "-c1", "-W5", "10.7.0.1")
	clean(n, p)
}

// A plugin that cannot be told of a removal keeps nobody from it, and is told when it answers again.
func TestPluginThatIsAwayForARemoval(t *testing.T) {
	n, p := withPlugin(t)
	n.ok("network", "create", "-d", "testplugin", "--subnet", "10.7.0.0/24", "far")
	n.ok("run", "-d", "--name", "c", "--network", "far", "bb", "sleep", "1000")
	p.Kill()
	n.ok("rm", "-f", "c")
	n.ok("network", "rm", "far")
	n.restart()
	p.Start()
	await.Value(t, "what the plugin has", "", p.Made)
	clean(n, p)
}

// A link that a plugin made and that is gone is asked for again.
func TestALinkOfAPluginThatGoes(t *testing.T) {
	n, p := withPlugin(t)
	n.ok("network", "create", "-d", "testplugin", "--subnet", "10.7.0.0/24", "far")
	n.ok("run", "-d", "--name", "c", "--network", "far", "bb", "sleep", "1000")
	n.Sh("ip link del $(ip -o link | grep -o 'tph[0-9a-f]*')")
	n.restart()
	n.eventually("the gateway answers again", func() bool {
		return n.net("exec", "c", "ping", "-c1", "-W1", "10.7.0.1").code == 0
	})
	await.Value(t, "netd and the plugin differ", "", func() string { return differs(n, p) })
	clean(n, p)
}

// A plugin gives subnets and addresses, to networks of our own drivers and of plugins.
func TestAddressesOfAPlugin(t *testing.T) {
	n, p := withPlugin(t)
	n.ok("network", "create", "--ipam-driver", "testplugin", "--ipam-opt", "team=blue", "web")
	matches(t, "RequestPool", p.Last("IpamDriver.RequestPool"), `"AddressSpace":"here".*"Options":\{"team":"blue"\}`)
	n.ok("network", "create", "-d", "testplugin", "--ipam-driver", "testplugin", "--subnet", "10.7.0.0/24", "--gateway",
		"10.7.0.9", "--aux-address", "r=10.7.0.2", "far")
	is(t, "what the plugin has given", strings.Join(pools(p), "\n"),
		"pool 10.7.0.0/24 10.7.0.9 10.7.0.2\npool 10.77.0.0/24 10.77.0.1")
	is(t, "inspect", n.ok("network", "inspect", "-f", "{{.IPAM.Driver}} {{.IPAM.Options.team}} "+
		"{{range .IPAM.Config}}{{.Subnet}} {{.Gateway}}{{end}}", "web"), "testplugin blue 10.77.0.0/24 10.77.0.1")
	n.ok("run", "-d", "--name", "a", "--network", "web", "bb", "sleep", "1000")
	n.ok("run", "-d", "--name", "b", "--network", "web", "--ip", "10.77.0.50", "bb", "sleep", "1000")
	n.ok("exec", "a", "ping", "-c1", "-W5", "10.77.0.50")
	n.ok("run", "--rm", "--network", "far", "bb", "ping", "-c1", "-W5", "10.7.0.9")
	is(t, "with containers", strings.Join(pools(p), "\n"),
		"pool 10.7.0.0/24 10.7.0.9 10.7.0.2\npool 10.77.0.0/24 10.77.0.1 10.77.0.2 10.77.0.50")
	n.refuses(
		refusal{"run --rm --network web --ip 10.77.0.50 bb true", 125, `address "10.77.0.50".*is taken`},
		refusal{"run --rm --network web --ip 10.78.0.50 bb true", 125, `"10.78.0.50": not in the subnet`},
		refusal{"network create --ipam-driver testplugin --subnet 10.77.0.0/24 x", 1,
			`subnet "10.77.0.0/24".*is taken`},
		refusal{"network create --ipam-driver nope x", 1,
			`IPAM driver "nope": no such plugin: looked for nope.sock in`},
		refusal{"network create --ipam-opt a=b x", 1, `name the driver`},
		refusal{"network create --ipam-driver testplugin --subnet /24 x", 1, `give the whole subnet`},
	)
	n.restart()
	n.ok("exec", "a", "ping", "-c1", "-W5", "10.77.0.50")
	n.ok("stop", "-t", "0", "b")
	n.ok("run", "--rm", "--network", "web", "--ip", "10.77.0.50", "bb", "true")
	n.ok("start", "b")
	is(t, "its address again", n.inside("b")("ip -o -4 addr show eth0 | grep -o '10[.0-9]*/24'"), "10.77.0.50/24\n")
	n.ok("rm", "-f", "a", "b")
	is(t, "without containers", strings.Join(pools(p), "\n"),
		"pool 10.7.0.0/24 10.7.0.9 10.7.0.2\npool 10.77.0.0/24 10.77.0.1")
	n.ok("network", "rm", "web", "far")
	is(t, "without networks", p.Made(), "")
	clean(n, p)
}

// pools are the plugin's pools with what it has given of them.
func pools(p *plugintest.Process) []string {
	return slices.DeleteFunc(strings.Split(p.Made(), "\n"),
		func(s string) bool { return !strings.HasPrefix(s, "pool") })
}

// A plugin that forgets what it has given is asked again when netd starts.
func TestAddressesThatAPluginForgets(t *testing.T) {
	n, p := withPlugin(t)
	n.ok("network", "create", "--ipam-driver", "testplugin", "web")
	n.ok("run", "-d", "--name", "a", "--network", "web", "bb", "sleep", "1000")
	given := p.Made()
	p.Kill()
	if err := os.Remove(p.Socket + ".state"); err != nil {
		t.Fatal(err)
	}
	p.Start()
	is(t, "what the plugin knows", p.Made(), "")
	p.Behave(plugintest.Fault{Method: "IpamDriver.GetCapabilities", How: plugintest.Answer,
		Answer: `{"RequiresRequestReplay": true}`})
	n.restart()
	await.Value(t, "what the plugin has given", given, p.Made)
	n.ok("rm", "-f", "a")
	n.ok("network", "rm", "web")
	clean(n, p)
}

// What an IPAM plugin answers is checked, and neither a lie nor the death of either side leaves anything behind.
func TestHostileAddresses(t *testing.T) {
	n, p := withPlugin(t)
	create := "network create --ipam-driver testplugin web"
	try := func(command string, code int, method string, f plugintest.Fault, words string) {
		t.Helper()
		before := p.Made()
		f.Method, f.Times = "IpamDriver."+method, 1
		p.Behave(f)
		n.refuses(refusal{command, code, words})
		await.Value(t, method+" "+f.How+f.Answer+": what the plugin has", before, p.Made)
	}
	for how, words := range map[string]string{plugintest.Hang: "no answer within 2s",
		plugintest.Garbage: "no JSON object", plugintest.Refuse: "not today", plugintest.Huge: "longer than"} {
		for _, method := range []string{"GetDefaultAddressSpaces", "RequestPool", "RequestAddress"} {
			try(create, 1, method, plugintest.Fault{How: how}, words)
		}
	}
	for answer, words := range map[string]string{
		`{"PoolID": "x", "Pool": "10.0.0.1/8"}`:                                                         "no subnet",
		`{"PoolID": "", "Pool": "10.0.0.0/8"}`:                                                          "PoolID",
		`{"PoolID": "x", "Pool": "fd00::/64"}`:                                                          "other family",
		`{"PoolID": "x", "Pool": "127.0.0.0/8", "Data": {"com.docker.network.gateway": "127.0.0.1"}}`:   "loopback",
		`{"PoolID": "x", "Pool": "10.0.0.0/24", "Data": {"com.docker.network.gateway": "10.1.0.1/24"}}`: "the gateway",
	} {
		try(create, 1, "RequestPool", plugintest.Fault{How: plugintest.Answer, Answer: answer}, words)
	}
	try(create, 1, "GetCapabilities", plugintest.Fault{How: plugintest.Answer, Answer: `{"RequiresMACAddress": true}`},
		"hardware address")
	n.ok(strings.Fields(create)...)
	run := "run --rm --network web bb true"
	for answer, words := range map[string]string{
		`{"Address": "10.78.0.5/24"}`: "none of pool", `{"Address": ""}`: "none of pool",
		`{"Address": "10.77.0.1/24"}`: "taken by the gateway", `{"Address": "10.77.0.255"}`: "broadcast",
	} {
		try(run, 125, "RequestAddress", plugintest.Fault{How: plugintest.Answer, Answer: answer}, words)
	}
	p.Behave(plugintest.Fault{Method: "IpamDriver.RequestAddress", How: plugintest.HangAfter, Times: 1})
	before := strings.Count(p.Calls(), "RequestAddress")
	s := n.session(nil, "run", "-d", "--network", "web", "--ip", "10.77.0.60", "bb", "sleep", "1000")
	n.eventually("netd asks", func() bool { return strings.Count(p.Calls(), "RequestAddress") > before })
	n.restart()
	await.From(t, "net ends", s.code)
	await.Value(t, "what the plugin has", "pool 10.77.0.0/24 10.77.0.1", p.Made)
	n.ok("run", "-d", "--name", "c", "--network", "web", "bb", "sleep", "1000")
	p.Kill()
	n.ok("rm", "-f", "c")
	n.ok("network", "rm", "web")
	p.Start()
	clean(n, p)
}

// Who does not ask a plugin does not wait for one that hangs.
func TestAPluginThatHangsKeepsNobodyElse(t *testing.T) {
	n, p := withPlugin(t, "--plugin-wait", "1h")
	n.ok("network", "create", "-d", "testplugin", "--subnet", "10.7.0.0/24", "far")
	p.Behave(plugintest.Fault{Method: "NetworkDriver.CreateEndpoint", How: plugintest.Hang, Times: 1})
	s := n.session(nil, "run", "-d", "--network", "far", "bb", "sleep", "1000")
	n.eventually("netd asks", func() bool { return strings.Contains(p.Calls(), "CreateEndpoint") })
	n.ok("run", "--rm", "bb", "true")
	n.ok("run", "--rm", "--network", "far", "bb", "ping", "-c1", "-W5", "10.7.0.1")
	is(t, "net diff", n.ok("diff"), "")
	select {
	case code := <-s.code:
		t.Errorf("the one that asks has ended with %d: %s", code, s.errs)
	default:
	}
	p.Kill()
	await.From(t, "net ends", s.code)
	p.Start()
	clean(n, p)
}
