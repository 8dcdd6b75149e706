package dns

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/vethloom/vethloom/plan"
)

func TestNamesOfNetworks(t *testing.T) {
	f := newFabric(t)
	for _, c := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"db", dns.TypeA, "10.7.0.2 10.8.0.2"}, {"DB", dns.TypeA, "10.7.0.2 10.8.0.2"},
		{"db.front", dns.TypeA, "10.7.0.2"}, {"db.back", dns.TypeA, "10.8.0.2"}, {"store", dns.TypeAAAA, "fd07::2"},
		{"deep.name", dns.TypeA, "10.8.0.2"}, {"deep.name.back", dns.TypeA, "10.8.0.2"},
		{"app", dns.TypeA, "10.7.0.6 10.7.0.7"},
		{"web_1", dns.TypeAAAA, ""}, {"db", dns.TypeMX, ""}, {"db", dns.TypeTXT, ""},
		{"far", dns.TypeA, "NXDOMAIN"}, {"far.other", dns.TypeA, "NXDOMAIN"}, {"nobody.front", dns.TypeA, "NXDOMAIN"},
		{"localhost", dns.TypeA, "127.0.0.1"}, {"x.localhost", dns.TypeAAAA, "::1"}, {"localhost", dns.TypeMX, ""},
		{"host.docker.internal", dns.TypeA, "10.7.0.1"}, {"HOST.vethloom.internal", dns.TypeAAAA, "fd07::1"},
		{"2.0.7.10.in-addr.arpa", dns.TypePTR, "db.front."}, {"9.0.8.10.in-addr.arpa", dns.TypePTR, "shut.back."},
		{"77.0.7.10.in-addr.arpa", dns.TypePTR, "NXDOMAIN"}, {"1.0.0.127.in-addr.arpa", dns.TypePTR, "localhost."},
		{"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.7.0.d.f.ip6.arpa", dns.TypePTR, "db.front."},
		{"_80._tcp.db", dns.TypeSRV, "0 0 80 db.front."}, {"_http._tcp.store.front", dns.TypeSRV, "0 0 80 db.front."},
		{"_domain._udp.db", dns.TypeSRV, "0 0 53 db.front."}, {"_81._tcp.db", dns.TypeSRV, "NXDOMAIN"},
		{"_80._tcp.db", dns.TypeA, ""}, {"_80._tcp.nobody.front", dns.TypeSRV, "NXDOMAIN"},
		{"_nope._tcp.db", dns.TypeSRV, "NXDOMAIN"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			r, err := exchange(network, f.box, new(dns.Msg).SetQuestion(dns.Fqdn(c.name), c.qtype))
			if err != nil {
				t.Fatal(err)
			}
			if got := answer(r); got != c.want {
				t.Errorf("%s %s over %s: %q, want %q", c.name, dns.TypeToString[c.qtype], network, got, c.want)
			}
			if !r.Authoritative || !r.RecursionAvailable || r.Question[0].Name != dns.Fqdn(c.name) {
				t.Errorf("%s: the answer's head is %v", c.name, r.MsgHdr)
			}
			for _, rr := range r.Answer {
				if rr.Header().Name != dns.Fqdn(c.name) {
					t.Errorf("%s: a record of %s", c.name, rr.Header().Name)
				}
			}
			if len(r.Answer) == 0 && len(r.Ns) != 1 {
				t.Errorf("%s: nothing, without a SOA", c.name)
			}
		}
	}
	srv := f.ask(f.box, "_80._tcp.db", dns.TypeSRV)
	if len(srv.Extra) != 2 {
		t.Errorf("SRV has %d addresses with it", len(srv.Extra))
	}
}

// The first network has the first word, and of several the order changes.
func TestOrderOfAddresses(t *testing.T) {
	f := newFabric(t)
	first := map[string]int{}
	for range 200 {
		r := f.ask(f.box, "db", dns.TypeA)
		if got := r.Answer[0].(*dns.A).A.String(); got != "10.8.0.2" { // rank 10 of network back
			t.Fatalf("the first address is %s", got)
		}
		first[f.ask(f.box, "app", dns.TypeA).Answer[0].(*dns.A).A.String()]++
	}
	if len(first) != 2 {
		t.Errorf("of a service always the same is first: %v", first)
	}
}

func TestNamesAtAGateway(t *testing.T) {
	f := newFabric(t)
	for name, want := range map[string]string{"db": "10.7.0.2", "web": "10.7.0.3", "deep.name": "SERVFAIL"} {
		if got := answer(f.ask(f.gate, name, dns.TypeA)); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	// Who is not on the network gets no answer.
	f.names.Apply([]plan.Object{plan.NameZone{ID: "f", Name: "front"}}, nil)
	c := dns.Client{Timeout: 100 * time.Millisecond}
	if r, _, err := c.Exchange(new(dns.Msg).SetQuestion("db.", dns.TypeA), f.gate); err == nil {
		t.Errorf("a stranger got %v", r)
	}
}

func TestNamesComeAndGo(t *testing.T) {
	f := newFabric(t)
	up := elsewhere(t, "127.0.0.53", rcode(dns.RcodeNameError))
	f.resolv("127.0.0.53")
	want := func(name, want string) {
		t.Helper()
		if got := answer(f.ask(f.box, name, dns.TypeA)); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	late := member("f", "10", "", 0, "late", "10.7.0.10")
	want("late", "NXDOMAIN")
	if up.times("late") != 1 {
		t.Error("a name that nobody has had was not asked for elsewhere")
	}
	f.names.Apply([]plan.Object{late}, nil)
	want("late", "10.7.0.10")
	late.Addrs = late.Addrs[:0]
	f.names.Apply([]plan.Object{late}, nil)
	want("late", "")
	f.names.Apply(nil, []plan.Object{late})
	want("late", "NXDOMAIN")
	want("late.front", "NXDOMAIN")
	want("late.dev", "NXDOMAIN")
	if up.times("late") != 1 || up.times("late.front") != 0 || up.times("late.dev") != 0 {
		t.Error("a name of ours was asked for elsewhere")
	}
	// A network that has the name of a domain hides what it has, and no more.
	want("known.dev", "10.10.0.8")
	want("example.dev", "NXDOMAIN")
	if up.times("example.dev") != 1 || up.times("known.dev") != 0 {
		t.Error("the domain dev is hidden, or what is known of it was asked for")
	}
	// Nor does one that others have made take a domain away from who is not on it.
	com, google := plan.NameZone{ID: "c", Name: "com"}, member("c", "11", "", 0, "google", "10.11.0.2")
	f.names.Apply([]plan.Object{com, google}, nil)
	want("google.com", "NXDOMAIN")
	if up.times("google.com") != 1 {
		t.Error("a network that others have made hides google.com")
	}
	want("far.other", "NXDOMAIN")
	if up.times("far.other") != 0 {
		t.Error("a name on another network was asked for elsewhere")
	}
	f.names.Apply(nil, []plan.Object{com, google})
	zones, members := f.names.List()
	if len(zones) != 4 || len(members) != 9 {
		t.Errorf("%d zones and %d members", len(zones), len(members))
	}
}

// Thousands have one name: an answer has some of them, and another one others.
func TestAnswersAreBounded(t *testing.T) {
	f := newFabric(t)
	var put []plan.Object
	for i := range 4000 {
		m := member("f", fmt.Sprint("x", i), "", 0, "many", fmt.Sprintf("10.7.%d.%d", i>>8, i&255))
		m.Ports = []plan.NamePort{{Proto: plan.TCP, Port: 80}}
		put = append(put, m)
	}
	f.names.Apply(put, nil)
	for name, qtype := range map[string]uint16{"many": dns.TypeA, "_80._tcp.many": dns.TypeSRV} {
		seen := map[string]bool{}
		for range 20 {
			r, err := exchange("tcp", f.box, new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype))
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Answer) != maxAnswer {
				t.Fatalf("%s: %d records, want %d", name, len(r.Answer), maxAnswer)
			}
			for _, rr := range append(r.Answer, r.Extra...) {
				if a, ok := rr.(*dns.A); ok {
					seen[a.A.String()] = true
				}
			}
		}
		if len(seen) <= maxAnswer {
			t.Errorf("%s: always the same ones", name)
		}
	}
}

func TestRecentNamesAreBounded(t *testing.T) {
	r := newRecent(3)
	for _, n := range strings.Fields("a b a c d") {
		r.add(n)
	}
	for name, want := range map[string]bool{"a": true, "b": false, "c": true, "d": true, "e": false} {
		if r.has(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
	if len(r.when) != 3 {
		t.Errorf("%d are remembered", len(r.when))
	}
}

// What is no question of ours is refused, each in its own way.
func TestQuestionsThatAreNone(t *testing.T) {
	f := newFabric(t)
	q := func(change func(*dns.Msg)) *dns.Msg {
		m := new(dns.Msg).SetQuestion("db.", dns.TypeA)
		change(m)
		return m
	}
	again := func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }
	newer := func(m *dns.Msg) {
		m.SetEdns0(1232, false)
		m.IsEdns0().SetVersion(9)
	}
	for name, c := range map[string]struct {
		q    *dns.Msg
		want int
	}{
		"another class":     {q(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), dns.RcodeRefused},
		"a transfer":        {q(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }), dns.RcodeRefused},
		"an update":         {q(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), dns.RcodeNotImplemented},
		"two questions":     {q(again), dns.RcodeFormatError},
		"no question":       {q(func(m *dns.Msg) { m.Question = nil }), dns.RcodeFormatError},
		"EDNS of version 9": {q(newer), dns.RcodeBadVers},
	} {
		b, err := c.q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		r := new(dns.Msg)
		if err := r.Unpack(raw(t, f.box, b)); err != nil || r.Id != c.q.Id {
			t.Errorf("%s: %v %v", name, r, err)
			continue
		}
		if got := r.Rcode; got != c.want {
			t.Errorf("%s: %s, want %s", name, dns.RcodeToString[got], dns.RcodeToString[c.want])
		}
	}
	// An answer, and what is shorter than a head, are answered with nothing; the next question is.
	conn, err := net.Dial("udp", f.box)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	reply, err := q(func(m *dns.Msg) { m.Response = true }).Pack()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{reply, {1, 2, 3}, {}} {
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	good := q(func(m *dns.Msg) { m.Id = 4711 })
	b, err := good.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
	in := make([]byte, 4096)
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := conn.Read(in)
	r := new(dns.Msg)
	if err != nil || r.Unpack(in[:n]) != nil || r.Id != 4711 {
		t.Errorf("the first answer is %v: %v", r, err)
	}
}

// raw sends bytes and returns the answer.
func raw(t *testing.T, at string, b []byte) []byte {
	t.Helper()
	conn, err := net.Dial("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
	in := make([]byte, 4096)
	n, err := conn.Read(in)
	if err != nil {
		t.Fatal(err)
	}
	return in[:n]
}

// Answers that do not fit are cut, and whole over TCP.
func TestAnswersThatDoNotFit(t *testing.T) {
	f := newFabric(t)
	var many []plan.Object
	for i := range 200 {
		many = append(many, member("f", fmt.Sprint("m", i), "", 0, "many", fmt.Sprint("10.7.0.", i)))
	}
	f.names.Apply(many, nil)
	for size, most := range map[uint16]int{0: 512, 1232: 1232, 65000: 4096} {
		q := new(dns.Msg).SetQuestion("many.", dns.TypeA)
		if size > 0 {
			q.SetEdns0(size, false)
		}
		b, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		in := raw(t, f.box, b)
		r := new(dns.Msg)
		if err := r.Unpack(in); err != nil || len(in) > most || r.Truncated != (most < 3000) {
			t.Errorf("with room for %d bytes: %d bytes, truncated %v, %v", size, len(in), r.Truncated, err)
		}
		if (r.IsEdns0() != nil) != (size > 0) {
			t.Errorf("with room for %d bytes: EDNS %v", size, r.IsEdns0())
		}
	}
	r, err := exchange("tcp", f.box, new(dns.Msg).SetQuestion("many.", dns.TypeA))
	if err != nil || len(r.Answer) != 200 {
		t.Errorf("over TCP: %d records, %v", len(r.Answer), err)
	}
}

// Names at the limits of DNS, and those that look like something else, are names.
func TestUnusualNames(t *testing.T) {
	f := newFabric(t)
	zone := plan.NameZone{ID: "f", Name: "front", Subnets: []netip.Prefix{prefix("10.7.0.0/16")}}
	f.names.Apply([]plan.Object{zone}, nil)
	long := strings.Repeat("a", 63)
	longest := strings.Join([]string{long, long, long, strings.Repeat("b", 61)}, ".")
	for i, name := range []string{long, longest, "123", "10.7.0.99", "_under_score_", "xn--bcher-kva", "a.b.c", "-",
		"com", "front", "host", "tcp", "local"} {
		ip := fmt.Sprint("10.7.1.", i)
		m := member("f", "unusual", "", 0, name, ip)
		m.Ports = []plan.NamePort{{Proto: plan.TCP, Port: 80}}
		f.names.Apply([]plan.Object{m}, nil)
		for _, asked := range []string{name, strings.ToUpper(name)} {
			if got := answer(f.ask(f.box, asked, dns.TypeA)); got != ip {
				t.Errorf("%s: %q, want %s", asked, got, ip)
			}
		}
		pointer := name + ".front."
		if name == longest {
			pointer = name + "."
		} else if got := answer(f.ask(f.box, pointer, dns.TypeA)); got != ip {
			t.Errorf("%s: %q, want %s", pointer, got, ip)
		}
		reverse, err := dns.ReverseAddr(ip)
		if err != nil {
			t.Fatal(err)
		}
		if got := answer(f.ask(f.box, reverse, dns.TypePTR)); got != pointer {
			t.Errorf("%s: %q, want %s", reverse, got, pointer)
		}
		if name == longest {
			continue // nothing fits before it
		}
		if got := answer(f.ask(f.box, "_80._tcp."+name, dns.TypeSRV)); got != "0 0 80 "+pointer {
			t.Errorf("the port of %s: %q", name, got)
		}
	}
}
