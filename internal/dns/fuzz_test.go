package dns

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"github.com/vethloom/vethloom/plan"
)

// seeds are messages that are wrong in ways that have been harmful somewhere.
func seeds(f *testing.F) [][]byte {
	f.Helper()
	q := new(dns.Msg).SetQuestion("Web.Front.", dns.TypeA)
	q.SetEdns0(1232, true)
	r := new(dns.Msg).SetReply(q)
	for _, text := range []string{"web.front. 60 IN A 192.0.2.1", "web.front. 60 IN CNAME x.example.",
		"web.front. 60 IN SRV 0 0 80 web.front.", "web.front. 60 IN TXT \"a\" \"\""} {
		rr, err := dns.NewRR(text)
		if err != nil {
			f.Fatal(err)
		}
		r.Answer = append(r.Answer, rr)
	}
	out := [][]byte{{}, make([]byte, 11), make([]byte, 12), make([]byte, 600)}
	for _, m := range []*dns.Msg{q, r} {
		m.Compress = true
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		out = append(out, b, b[:len(b)-1], b[:20])
		for _, change := range []func(b []byte){
			func(b []byte) { b[12], b[13] = 0xc0, 12 },                         // a pointer to itself
			func(b []byte) { b[12], b[13], b[14], b[15] = 0xc0, 14, 0xc0, 12 }, // two to each other
			func(b []byte) { b[12] = 63 },                                      // a label longer than what is there
			func(b []byte) { b[12] = 0x80 },                                    // a label of no kind
			func(b []byte) { binary.BigEndian.PutUint16(b[6:], 65535) },        // answers that are not there
			func(b []byte) { binary.BigEndian.PutUint16(b[4:], 65535) },        // questions
			func(b []byte) { binary.BigEndian.PutUint16(b[len(b)-2:], 65535) },
			func(b []byte) { b[2] |= 0x78 }, // an opcode of no meaning
		} {
			c := append([]byte{}, b...)
			change(c)
			out = append(out, c)
		}
	}
	return out
}

// FuzzQuestions has questions of every kind answered: nothing panics, and each answer can be read, has the question's
// ID, and is no larger than what fits.
func FuzzQuestions(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b)
	}
	names := NewNames()
	m := member("f", "1", "box", 0, "web web.1 db", "10.7.0.2", "fd07::2")
	m.Ports = []plan.NamePort{{Proto: plan.TCP, Port: 80}}
	names.Apply([]plan.Object{plan.NameZone{ID: "f", Name: "front", Host: []netip.Addr{addr("10.7.0.1")},
		Subnets: []netip.Prefix{prefix("10.7.0.0/16")}, Internal: true}, m}, nil)
	s := New(Config{Names: names})
	f.Cleanup(s.Close)
	v := s.idle(plan.NameServer{NS: "box", Addr: addr("127.0.0.11")})
	f.Fuzz(func(t *testing.T, b []byte) {
		q, r, elsewhere := v.look(b)
		if elsewhere {
			t.Fatal("internal networks ask nobody")
		}
		if r.msg == nil {
			return
		}
		if len(b) < 12 || b[2]&0x80 != 0 {
			t.Fatalf("%x was answered", b)
		}
		size := room(q)
		out, err := fit(r.msg, size)
		m := new(dns.Msg)
		if err != nil || len(out) > size || m.Unpack(out) != nil {
			t.Fatalf("the answer %x: %v", out, err)
		}
		if m.Id != binary.BigEndian.Uint16(b) || !m.Response {
			t.Fatalf("the answer to %x is %v", b, m)
		}
	})
}

// FuzzAnswers has what servers elsewhere may send examined, kept and handed on.
func FuzzAnswers(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		q := new(dns.Msg).SetQuestion("web.front.", dns.TypeA)
		q.SetEdns0(1232, true)
		if len(b) >= 2 {
			q.Id = binary.BigEndian.Uint16(b)
		}
		m := accept(b, q)
		if m == nil {
			return
		}
		if m.Id != q.Id || !m.Response {
			t.Fatalf("%v was taken for the answer", m)
		}
		strip(m)
		c := newCache()
		i := inquiry{name: "web.front", qtype: dns.TypeA}
		c.put(i, m)
		if kept, _ := c.get(i); kept != nil {
			m = kept
		}
		asked := new(dns.Msg).SetQuestion("wEB.front.", dns.TypeA)
		out, err := fit(dress(asked, m), 512)
		if err == nil && len(out) > 512 {
			t.Fatalf("%d bytes", len(out))
		}
	})
}
