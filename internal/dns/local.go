package dns

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
	"golang.org/x/net/publicsuffix"

	"github.com/vethloom/vethloom/plan"
)

// localTTL is for how long our own answers may be kept, in seconds. What has gone is gone here at once.
const localTTL = 5

// ourDomain has the host's name and no other.
const ourDomain = "vethloom.internal"

// hostNames are what the host is called.
var hostNames = [...]string{"host.vethloom.internal", "host.docker.internal"}

// finding is what names say to a question.
type finding struct {
	ours    bool // it is for us to answer: nobody else is asked
	rcode   int
	answer  []dns.RR
	extra   []dns.RR
	why     string
	forward bool // the asker may have answers from elsewhere
	closed  string
}

// question is what somebody asks, with the name in lower case and without the dot at its end.
type question struct {
	name  string
	qtype uint16
	asked string // as it was asked: the answer has it again (RFC 4343)
}

// find answers from what is known. server tells who asks.
func (n *Names) find(server plan.NameServer, q question) finding {
	n.mu.RLock()
	defer n.mu.RUnlock()
	view := n.viewOf(server)
	f := finding{}
	f.forward, f.closed = n.mayForward(view)
	switch {
	case q.name == "localhost" || strings.HasSuffix(q.name, ".localhost"):
		f.addresses(q, []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()},
			"the name of each machine for itself (RFC 6761)")
	case slices.Contains(hostNames[:], q.name):
		n.findHost(&f, view, q)
	case q.name == ourDomain || strings.HasSuffix(q.name, "."+ourDomain):
		f.nothing(dns.RcodeNameError, "nothing is called so below "+ourDomain)
	case strings.HasSuffix(q.name, ".in-addr.arpa") || strings.HasSuffix(q.name, ".ip6.arpa"):
		n.findReverse(&f, view, q)
	default:
		if strings.HasPrefix(q.name, "_") {
			n.findService(&f, view, q)
		}
		if !f.ours {
			n.findName(&f, view, q)
		}
	}
	if f.ours && f.rcode == dns.RcodeSuccess && q.qtype == dns.TypeANY {
		f.extra, f.answer = nil, []dns.RR{&dns.HINFO{Cpu: "RFC8482", Hdr: dns.RR_Header{
			Name: q.asked, Rrtype: dns.TypeHINFO, Class: dns.ClassINET, Ttl: localTTL}}}
	}
	return f
}

// viewOf are the zones that are asked for a server, in their order.
func (n *Names) viewOf(s plan.NameServer) []string {
	if s.NS != "" {
		return n.views[s.NS]
	}
	if _, ok := n.zones[s.Network]; ok {
		return []string{s.Network}
	}
	return nil
}

func (n *Names) mayForward(view []string) (bool, string) {
	if len(view) == 0 {
		return false, "it is on no network"
	}
	for _, id := range view {
		if z, ok := n.zones[id]; ok && !z.Internal {
			return true, ""
		}
	}
	return false, "all of its networks are internal"
}

// nothing is an answer without records: the name is there or not.
func (f *finding) nothing(rcode int, why string) { f.ours, f.rcode, f.why = true, rcode, why }

// addresses answers with those of the family that is asked for.
func (f *finding) addresses(q question, addrs []netip.Addr, why string) {
	f.ours, f.why = true, why
	for _, a := range addrs {
		if rr := addressRecord(q.asked, a); rr.Header().Rrtype == q.qtype {
			f.answer = append(f.answer, rr)
		}
	}
}

func addressRecord(name string, a netip.Addr) dns.RR {
	h := dns.RR_Header{Name: name, Class: dns.ClassINET, Ttl: localTTL}
	if a.Is4() {
		h.Rrtype = dns.TypeA
		return &dns.A{Hdr: h, A: net.IP(a.AsSlice())}
	}
	h.Rrtype = dns.TypeAAAA
	return &dns.AAAA{Hdr: h, AAAA: net.IP(a.AsSlice())}
}

func (n *Names) findHost(f *finding, view []string, q question) {
	for _, id := range view {
		if z := n.zones[id]; len(z.Host) > 0 {
			f.addresses(q, z.Host, "the host on network "+z.Name)
			return
		}
	}
	f.nothing(dns.RcodeNameError, "the host has no address on a network of the asker's")
}

// match are the members of a zone that a name stands for, with or without the zone's own.
func (n *Names) match(zone, name string) []string {
	if keys := n.byName[place{zone, name}]; len(keys) > 0 {
		return keys
	}
	if short, ok := strings.CutSuffix(name, "."+n.zones[zone].Name); ok {
		return n.byName[place{zone, short}]
	}
	return nil
}

// maxAnswer bounds the records of an answer, about: of more that have a name, each time others are told.
const maxAnswer = 256

// from are all elements, beginning with one and going round.
func from(keys []string, first int) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range keys {
			if !yield(keys[(first+i)%len(keys)]) {
				return
			}
		}
	}
}

// findName answers with the addresses of all that have the name. A network that comes first has the first word: what
// is called so on others comes after it.
func (n *Names) findName(f *finding, view []string, q question) {
	for _, id := range view {
		keys := n.match(id, q.name)
		if len(keys) == 0 {
			continue
		}
		var addrs []netip.Addr
		for key := range from(keys, rand.IntN(len(keys))) {
			if len(addrs) >= maxAnswer {
				break // to tell of thousands takes a while, and nobody has use for it
			}
			addrs = append(addrs, n.members[key].Addrs...)
		}
		rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
		why := fmt.Sprintf("name of %s on network %s", count(len(keys), "container"), n.zones[id].Name)
		if f.why != "" {
			why = f.why + ", and " + why
		}
		f.addresses(q, addrs, why)
	}
	if !f.ours {
		n.disown(f, view, q.name)
	}
}

// disown decides about a name that nothing on the asker's networks has: what is ours otherwise is asked for nowhere.
func (n *Names) disown(f *finding, view []string, name string) {
	if !strings.Contains(name, ".") {
		switch {
		case n.owned[name] > 0:
			f.nothing(dns.RcodeNameError, "a name on other networks")
		case n.lately.has(name):
			f.nothing(dns.RcodeNameError, "the name of a container that has gone")
		}
		return
	}
	for id, z := range n.zones {
		short, below := strings.CutSuffix(name, "."+z.Name)
		if !below || z.Name == "" {
			continue
		}
		known, on, public := n.owned[short] > 0 || n.lately.has(short), slices.Contains(view, id), isPublic(z.Name)
		// What others call a network takes no domain of the world away from who is not on it.
		if on && (known || !public) || known && !public {
			f.nothing(dns.RcodeNameError, "nothing of this name is on network "+z.Name)
			return
		}
	}
}

// isPublic reports whether a network has the name of a domain that the world has too, such as dev: what is not known
// of it here may be there.
func isPublic(zone string) bool {
	_, icann := publicsuffix.PublicSuffix(zone)
	return icann
}

func count(n int, what string) string {
	if n == 1 {
		return "a " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// findReverse answers with the name of what has an address.
func (n *Names) findReverse(f *finding, view []string, q question) {
	a, ok := parseReverse(q.name)
	if !ok {
		return
	}
	if a.IsLoopback() {
		f.nothing(dns.RcodeSuccess, "loopback")
		f.pointer(q, "localhost.")
		return
	}
	for _, id := range view {
		z := n.zones[id]
		for _, key := range n.byAddr[at{id, a}] {
			if m := n.members[key]; len(m.Names) > 0 {
				f.nothing(dns.RcodeSuccess, "the address of a container on network "+z.Name)
				f.pointer(q, fullName(m, z.Name))
				return
			}
		}
		if slices.ContainsFunc(z.Subnets, func(s netip.Prefix) bool { return s.Contains(a) }) {
			f.nothing(dns.RcodeNameError, "nobody on network "+z.Name+" has the address")
			return
		}
	}
}

// fullName is what a member is called with its network, or without where that is too long for DNS.
func fullName(m plan.NameMember, zone string) string {
	full := m.Names[0] + "." + zone + "."
	if _, ok := dns.IsDomainName(full); !ok {
		return m.Names[0] + "."
	}
	return full
}

func (f *finding) pointer(q question, to string) {
	if q.qtype == dns.TypePTR || q.qtype == dns.TypeANY {
		f.answer = append(f.answer, &dns.PTR{Ptr: to,
			Hdr: dns.RR_Header{Name: q.asked, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: localTTL}})
	}
}

// parseReverse reads a name of in-addr.arpa (RFC 1035 section 3.5) or ip6.arpa (RFC 3596 section 2.5).
func parseReverse(name string) (netip.Addr, bool) {
	if text, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		parts := strings.Split(text, ".")
		slices.Reverse(parts)
		a, err := netip.ParseAddr(strings.Join(parts, "."))
		return a, err == nil && a.Is4()
	}
	digits := strings.Split(strings.TrimSuffix(name, ".ip6.arpa"), ".")
	if len(digits) != 32 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i, d := range digits {
		v, err := strconv.ParseUint(d, 16, 4)
		if err != nil || len(d) != 1 {
			return netip.Addr{}, false
		}
		at := 31 - i
		b[at/2] |= byte(v) << (4 * (1 - at%2))
	}
	return netip.AddrFrom16(b), true
}

// findService answers SRV (RFC 2782): _port._proto.name, where the port is a number or what services(5) calls it.
func (n *Names) findService(f *finding, view []string, q question) {
	labels := strings.SplitN(q.name, ".", 3)
	if len(labels) < 3 || len(labels[0]) < 2 || !strings.HasPrefix(labels[1], "_") {
		return
	}
	proto := plan.L4(labels[1][1:])
	target := question{name: labels[2], asked: labels[2] + "."}
	probe := finding{}
	n.findName(&probe, view, target)
	if !probe.ours {
		return
	}
	port, ok := portOf(proto, labels[0][1:])
	if !ok {
		f.nothing(dns.RcodeNameError, "no port is called so")
		return
	}
	for _, id := range view {
		keys := n.match(id, target.name)
		for key := range from(keys, rand.IntN(max(len(keys), 1))) {
			m := n.members[key]
			if len(f.answer) >= maxAnswer {
				break
			}
			if len(m.Names) == 0 || !slices.Contains(m.Ports, plan.NamePort{Proto: proto, Port: port}) {
				continue
			}
			n.service(f, q, m, n.zones[id].Name, port)
		}
	}
	if f.ours {
		rand.Shuffle(len(f.answer), func(i, j int) { f.answer[i], f.answer[j] = f.answer[j], f.answer[i] })
		return
	}
	f.nothing(dns.RcodeNameError, "no container of this name serves the port")
}

// portOf reads a port's number, or what services(5) calls it.
func portOf(proto plan.L4, text string) (uint16, bool) {
	number, err := strconv.ParseUint(text, 10, 16)
	if err == nil {
		return uint16(number), number > 0
	}
	resolver := net.Resolver{PreferGo: true} // reads services(5) itself, once
	port, err := resolver.LookupPort(context.Background(), string(proto), text)
	return uint16(port), err == nil && port > 0
}

// service adds an endpoint that serves a port, with its addresses.
func (n *Names) service(f *finding, q question, m plan.NameMember, zone string, port uint16) {
	f.nothing(dns.RcodeSuccess, "a port that containers of this name serve")
	if q.qtype != dns.TypeSRV && q.qtype != dns.TypeANY {
		return
	}
	target := fullName(m, zone)
	f.answer = append(f.answer, &dns.SRV{Port: port, Target: target,
		Hdr: dns.RR_Header{Name: q.asked, Rrtype: dns.TypeSRV, Class: dns.ClassINET, Ttl: localTTL}})
	for _, a := range m.Addrs {
		f.extra = append(f.extra, addressRecord(target, a))
	}
}
