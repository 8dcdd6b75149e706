package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/plan"
)

// flood sends different questions from one socket and waits for no answer.
func flood(t *testing.T, at, what string, n int) {
	t.Helper()
	conn, err := net.Dial("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for i := range n {
		b, err := new(dns.Msg).SetQuestion(fmt.Sprintf("%s%d.example.", what, i), dns.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
	}
}

func (f *fabric) serving(n plan.NameServer) *serving {
	f.srv.mu.Lock()
	defer f.srv.mu.Unlock()
	return f.srv.serving[n.Key()]
}

// One sandbox asks more than it may of servers that do not answer. What another one asks is answered all the same.
func TestAFloodHarmsNoOther(t *testing.T) {
	f := newFabric(t, up1)
	elsewhere(t, up1, func(w dns.ResponseWriter, q *dns.Msg) {
		if !strings.HasPrefix(q.Question[0].Name, "flood") {
			record("60 IN A 192.0.2.1")(w, q)
		}
	})
	n := plan.NameServer{NS: "out", Addr: addr("127.0.0.11")}
	flooded := f.serve(n, Sockets{})
	v := f.serving(n)
	for round := 0; v.asking.used() < maxAsking; round++ { // what finds no room in the socket is lost
		flood(t, flooded, fmt.Sprint("flood", round, "-"), 2*maxAsking)
	}
	for i := range 20 {
		if got := answer(f.ask(f.box, fmt.Sprint("www", i, ".example"), dns.TypeA)); got != "192.0.2.1" {
			t.Errorf("%s from elsewhere", got)
		}
		if got := answer(f.ask(f.box, "app", dns.TypeA)); got != "10.7.0.6 10.7.0.7" {
			t.Errorf("%s from here", got)
		}
		if got := answer(f.ask(flooded, "far", dns.TypeA)); got != "10.9.0.5" {
			t.Errorf("%s for who floods itself", got)
		}
	}
	if used := v.asking.used(); used > maxAsking {
		t.Errorf("%d questions under way", used)
	}
}

// So many sandboxes ask all they may of servers that do not answer that no question more could be under way. There is
// room for another one all the same.
func TestManyFloodsLeaveRoom(t *testing.T) {
	f := newFabric(t, up1)
	elsewhere(t, up1, record("60 IN A 192.0.2.1"))
	ctx, cancel := context.WithCancel(t.Context())
	var under sync.WaitGroup
	var refused atomic.Int32
	defer under.Wait()
	defer cancel()
	for i := range 2 * maxFlights / maxAsking {
		v := f.srv.idle(plan.NameServer{NS: plan.NetNS(fmt.Sprint(i)), Addr: addr("127.0.0.11")})
		for j := range maxAsking {
			if !v.asking.take(addr("127.0.0.1")) {
				t.Fatal("a sandbox may not ask what it may")
			}
			under.Go(func() {
				defer v.asking.give(addr("127.0.0.1"))
				i := inquiry{name: fmt.Sprintf("flood%d-%d", i, j)}
				_, err := f.srv.asking.do(ctx, i, v.asking.used(), func() answerOf { <-ctx.Done(); return answerOf{} })
				if errors.Is(err, errBusy) {
					refused.Add(1)
				}
			})
		}
	}
	await.True(t, "the floods are under way", func() bool {
		f.srv.asking.mu.Lock()
		defer f.srv.asking.mu.Unlock()
		return len(f.srv.asking.now)+int(refused.Load()) == 2*maxFlights
	})
	if got := answer(f.ask(f.box, "www.example", dns.TypeA)); got != "192.0.2.1" {
		t.Errorf("%s from elsewhere", got)
	}
}

// A process that may have few descriptors keeps most of them for other things than questions elsewhere.
func TestQuestionsAreBoundedByDescriptors(t *testing.T) {
	for limit, want := range map[uint64]int{10: 16, 1024: 256, 4096: 1024, 1 << 20: maxFlights,
		math.MaxUint64: maxFlights} {
		if got := flightsFor(limit); got != want {
			t.Errorf("%d with %d descriptors, want %d", got, limit, want)
		}
	}
}

func TestQuotasLeaveRoomForOthers(t *testing.T) {
	q := newQuota(8, true)
	a, b := addr("10.7.0.2"), addr("10.7.0.3")
	for i := range 4 {
		if got := q.take(a); got != (i < 2) {
			t.Errorf("place %d of the first: %v", i, got)
		}
	}
	if !q.take(b) {
		t.Error("no place for the second")
	}
	q.give(a)
	if again, more := q.take(a), q.take(a); !again || more || q.used() != 3 {
		t.Errorf("after one was given back: %v, %v, %d are used", again, more, q.used())
	}
	for _, x := range []string{"10.7.0.2", "10.7.0.2", "10.7.0.3"} {
		q.give(addr(x))
	}
	if len(q.by) != 0 || q.used() != 0 {
		t.Errorf("%v is left", q.by)
	}
	one := newQuota(2, false)
	for i := range 3 {
		if got := one.take(a); got != (i < 2) {
			t.Errorf("place %d of one who asks alone: %v", i, got)
		}
	}
}

// The cache of one sandbox does not grow into that of others, and all of them together are bounded.
func TestTheCacheIsBounded(t *testing.T) {
	c := newCache()
	fill := func(where string, n int) {
		m := new(dns.Msg).SetReply(new(dns.Msg).SetQuestion("x.", dns.TypeTXT))
		m.Answer = []dns.RR{&dns.TXT{Txt: []string{strings.Repeat("x", 200)},
			Hdr: dns.RR_Header{Name: "x.", Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 60}}}
		for i := range n {
			c.put(inquiry{where: where, name: fmt.Sprint(i)}, m)
		}
	}
	fill(sharedPlace, 10)
	for i := range 100 {
		fill(fmt.Sprint("box", i), 1000)
	}
	sum := 0
	for where, s := range c.places {
		if where != sharedPlace {
			sum += s.bytes
		}
		if s.bytes > s.most || s.used.Len() != len(s.byKey) {
			t.Errorf("%s has %d bytes, %d in order and %d by key", where, s.bytes, s.used.Len(), len(s.byKey))
		}
	}
	if sum != c.others || sum > cachePlaces || len(c.places[sharedPlace].byKey) != 10 {
		t.Errorf("%d bytes, counted as %d, and %d shared", sum, c.others, len(c.places[sharedPlace].byKey))
	}
	fill(sharedPlace, 100000)
	if s := c.places[sharedPlace]; s.bytes > cacheShared {
		t.Errorf("%d bytes are shared", s.bytes)
	}
	for where := range c.places {
		c.forget(where)
	}
	if c.others != 0 || len(c.places) != 0 {
		t.Errorf("%d bytes are left", c.others)
	}
}

// Over TCP questions may follow each other at once, and a slow answer holds up no other.
func TestQuestionsFollowEachOther(t *testing.T) {
	f := newFabric(t, up1)
	release := make(chan struct{})
	elsewhere(t, up1, func(w dns.ResponseWriter, q *dns.Msg) {
		<-release
		record("60 IN A 192.0.2.1")(w, q)
	})
	c, err := dns.DialTimeout("tcp", f.box, await.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(await.Patience)); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"www.example.", "app.", "db."} {
		q := new(dns.Msg).SetQuestion(name, dns.TypeA)
		q.Id = uint16(i)
		if err := c.WriteMsg(q); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []uint16{1, 2, 0} {
		r, err := c.ReadMsg()
		if err != nil || r.Id != want {
			t.Fatalf("%v: %v, want question %d", r, err, want)
		}
		if want == 2 {
			close(release)
		}
	}
}

// What is wrong over TCP ends its connection and no other.
func TestWrongOverTCP(t *testing.T) {
	f := newFabric(t)
	good, err := new(dns.Msg).SetQuestion("app.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	size := func(n int, b []byte) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(n)), b...) }
	for name, b := range map[string][]byte{
		"a length of nothing":     size(0, nil),
		"a length beyond all":     size(65535, good),
		"a length in a question":  size(5, good),
		"an answer":               size(len(good), append([]byte{1, 2, 0x80}, good[3:]...)),
		"nothing of its question": size(len(good), good[:0]),
	} {
		c, err := net.Dial("tcp", f.box)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetDeadline(time.Now().Add(await.Patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		_ = c.(*net.TCPConn).CloseWrite() // the other end may have hung up already
		if n, err := c.Read(make([]byte, 2)); err == nil {
			t.Errorf("%s was answered with %d bytes", name, n)
		}
		c.Close()
	}
	r, err := exchange("tcp", f.box, new(dns.Msg).SetQuestion("app.", dns.TypeA))
	if err != nil || len(r.Answer) != 2 {
		t.Errorf("after all of it: %v, %v", r, err)
	}
}

// Connections that do nothing hold up no other name server, and end with theirs.
func TestIdleConnections(t *testing.T) {
	f := newFabric(t)
	n := plan.NameServer{NS: "out", Addr: addr("127.0.0.11")}
	at := f.serve(n, Sockets{})
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range maxConns + 8 {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	await.Value(t, "connections at work", maxConns, f.serving(n).talking.used)
	for _, where := range []string{f.box, f.gate} {
		r, err := exchange("tcp", where, new(dns.Msg).SetQuestion("app.", dns.TypeA))
		if err != nil || len(r.Answer) != 2 {
			t.Errorf("at another name server: %v, %v", r, err)
		}
	}
	f.srv.Stop(n.Key())
	for _, c := range conns {
		if err := c.SetDeadline(time.Now().Add(await.Patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a connection goes on after its name server")
		}
	}
}

// At a gateway one who asks takes a part of what there is.
func TestConnectionsAtAGateway(t *testing.T) {
	f := newFabric(t)
	n := plan.NameServer{Link: "vlb-1", Addr: addr("10.7.0.1"), Network: "f"}
	for range maxConns / 2 {
		c, err := net.Dial("tcp", f.gate)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	await.Value(t, "connections of one", maxConns/4, f.serving(n).talking.used)
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	c := dns.Client{Net: "tcp", Dialer: &dialer, Timeout: 10 * time.Second}
	r, _, err := c.Exchange(new(dns.Msg).SetQuestion("app.", dns.TypeA), f.gate)
	if err != nil || len(r.Answer) != 2 {
		t.Errorf("another one: %v, %v", r, err)
	}
}

// A mistake of ours costs the answer to one question.
func TestAPanicIsSurvived(t *testing.T) {
	f := &fabric{t: t, srv: New(Config{})} // without names to look at
	t.Cleanup(f.srv.Close)
	at := f.serve(plan.NameServer{NS: "out", Addr: addr("127.0.0.11")}, Sockets{})
	for range 3 {
		if _, err := exchangeBriefly(at); err == nil {
			t.Error("there was an answer")
		}
	}
	await.Value(t, "panics that were counted", 3, f.srv.Panics)
	if got := answer(f.ask(at, "www.example", dns.TypeAXFR)); got != "REFUSED" {
		t.Errorf("what needs no names: %s", got)
	}
}

func exchangeBriefly(at string) (*dns.Msg, error) {
	c := dns.Client{Timeout: 50 * time.Millisecond}
	r, _, err := c.Exchange(new(dns.Msg).SetQuestion("far.", dns.TypeA), at)
	return r, err
}

// Who watches sees what was asked, of whom it wants, and is told what it missed.
func TestWatch(t *testing.T) {
	f := newFabric(t, up1)
	elsewhere(t, up1, record("60 IN A 192.0.2.1"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := f.srv.Watch(ctx, func(n plan.NameServer) bool { return n.NS == "box" })
	f.ask(f.gate, "app", dns.TypeA) // not wanted
	f.ask(f.box, "Store", dns.TypeA)
	f.ask(f.box, "www.example", dns.TypeA)
	f.ask(f.box, "www.example", dns.TypeA)
	f.ask(f.box, "nobody.back", dns.TypeAAAA)
	want := []string{"Store A NOERROR names 1", "www.example A NOERROR 127.0.0.51 1", "www.example A NOERROR cache 1",
		"nobody.back AAAA NXDOMAIN names 0"}
	for e := range seen {
		got := fmt.Sprintln(e.Name, e.Type, e.Rcode, e.Source, len(e.Answers))
		if got = strings.TrimSpace(got); got != want[0] {
			t.Errorf("%q, want %q", got, want[0])
		}
		if e.Client == "" || e.Took <= 0 || e.Time.IsZero() || e.Lost != 0 {
			t.Errorf("%+v", e)
		}
		if want = want[1:]; len(want) == 0 {
			break
		}
	}
	if f.srv.watch.any() {
		t.Error("who has ended still watches")
	}
	slow := f.srv.Watch(ctx, func(plan.NameServer) bool { return true })
	for range watchBuffer + 10 {
		f.ask(f.box, "app", dns.TypeA)
	}
	i := 0
	for e := range slow {
		if i++; i == watchBuffer {
			f.ask(f.box, "db", dns.TypeA)
		}
		if i == watchBuffer+1 {
			if e.Lost != 10 || e.Name != "db" {
				t.Errorf("%d entries are said to be lost before %s", e.Lost, e.Name)
			}
			break
		}
	}
	// One that is never read ends with its context.
	f.srv.Watch(ctx, func(plan.NameServer) bool { return true })
	cancel()
	await.Value(t, "nobody watches", false, f.srv.watch.any)
}

// What servers elsewhere say is told to people in part, when it is long.
func TestLongTextsAreCut(t *testing.T) {
	rr := &dns.TXT{Hdr: dns.RR_Header{Name: "x.", Rrtype: dns.TypeTXT, Class: dns.ClassINET},
		Txt: slices.Repeat([]string{strings.Repeat("\x00", 255)}, 100)}
	got := texts(slices.Repeat([]dns.RR{rr}, 100))
	if len(got) != maxTold || len(got[0]) > maxText+4 {
		t.Errorf("%d texts, the first of %d bytes", len(got), len(got[0]))
	}
}

func TestLookup(t *testing.T) {
	f := newFabric(t, up1)
	elsewhere(t, up1, record("60 IN A 192.0.2.1"))
	f.serve(plan.NameServer{NS: "shut", Addr: addr("127.0.0.11")}, Sockets{})
	box := plan.NameServer{NS: "box", Addr: addr("127.0.0.11")}.Key()
	shut := plan.NameServer{NS: "shut", Addr: addr("127.0.0.11")}.Key()
	for _, c := range []struct{ key, name, rcode, step string }{
		{box, "db", "NOERROR", "name of a container on network back, and name of a container on network front"},
		{box, "www.example", "NOERROR", "asked 127.0.0.51 ("},
		{box, "WWW.example", "NOERROR", "from the cache, "},
		{box, "far", "NXDOMAIN", "a name on other networks"},
		{shut, "www.example", "NXDOMAIN", "not asked elsewhere: all of its networks are internal"},
	} {
		x, err := f.srv.Lookup(t.Context(), c.key, c.name, dns.TypeA)
		if err != nil {
			t.Fatal(err)
		}
		if x.Rcode != c.rcode || !strings.Contains(strings.Join(x.Steps, "; "), c.step) {
			t.Errorf("%s: %s, %q, want %s, %q", c.name, x.Rcode, x.Steps, c.rcode, c.step)
		}
	}
	for _, c := range [][2]string{{"nowhere", "db"}, {box, "a..b"}, {box, strings.Repeat("x", 64)}} {
		if x, err := f.srv.Lookup(t.Context(), c[0], c[1], dns.TypeA); err == nil {
			t.Errorf("%q at %q: %v", c[1], c[0], x)
		}
	}
}
