package nftables

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/plan"
)

// Registers are numbered in words of 32 bits; on the wire the kernel has two
// numberings, and reports a word that starts one of 128 bits by the older one.
const (
	wordsPerRegister = 4
	maxWords         = 16
)

// register is the kernel's number of the n-th 32-bit word.
func register(n int) uint32 {
	if n%wordsPerRegister == 0 {
		return uint32(unix.NFT_REG_1 + n/wordsPerRegister)
	}
	return uint32(unix.NFT_REG32_00 + n)
}

// anonymous is a set that belongs to one rule. Its place in compiled.sets is its number.
type anonymous struct {
	typeID   uint32
	size     int
	interval bool
	order    uint32
	values   []span
}

// compiled is a rule in the kernel's terms. A lookup in an anonymous set names
// it by anonymousName and has its number as the set ID until it is sent.
type compiled struct {
	exprs []expr.Any
	sets  []anonymous
}

// anonymousName makes the kernel choose a name.
const anonymousName = "__set%d"

// compile turns a rule of a chain of the family f into expressions.
func compile(f plan.Family, r plan.Rule) (compiled, error) {
	c := compiler{family: f}
	for _, m := range r.Match {
		if err := c.match(m); err != nil {
			return compiled{}, fmt.Errorf("match %q: %w", m.String(), err)
		}
	}
	translates := r.Verdict == plan.DNAT || r.Verdict == plan.SNAT
	if r.Verdict == plan.VMap || translates {
		// What the key needs is checked before the packet is counted.
		if err := c.require(r.Key); err != nil {
			return compiled{}, err
		}
	}
	if translates {
		if err := c.layer3(r.Addr); err != nil {
			return compiled{}, err
		}
	}
	if r.Counter {
		c.add(&expr.Counter{})
	}
	if err := c.verdict(r); err != nil {
		return compiled{}, err
	}
	return c.out, nil
}

type compiler struct {
	family plan.Family
	out    compiled
	l3     string // ip, ip6 or arp, once the rule has made sure of it
	l4     byte
}

func (c *compiler) add(e ...expr.Any) { c.out.exprs = append(c.out.exprs, e...) }

// require emits the tests without which the fields would read other bytes.
func (c *compiler) require(fs []plan.Field) error {
	for _, f := range fs {
		field, err := fieldOf(f)
		if err != nil {
			return err
		}
		if err := c.layer3(field.layer3); err != nil {
			return fmt.Errorf("field %q: %w", f, err)
		}
		if field.layer4 != 0 && c.l4 != field.layer4 {
			c.add(loadMeta(expr.MetaKeyL4PROTO)(unix.NFT_REG_1), equal([]byte{field.layer4}))
			c.l4 = field.layer4
		}
	}
	return nil
}

// layer3 emits a test that the packet is of the protocol want.
func (c *compiler) layer3(want string) error {
	switch {
	case want == "" || c.l3 == want:
		return nil
	case c.l3 != "":
		return fmt.Errorf("the rule is about %s already, and cannot be about %s", c.l3, want)
	case c.family == plan.BridgeTable:
		v, err := etherTypeValue(want)
		if err != nil {
			return err
		}
		c.add(loadMeta(expr.MetaKeyPROTOCOL)(unix.NFT_REG_1), equal(v.from))
	case want == "ip":
		c.add(loadMeta(expr.MetaKeyNFPROTO)(unix.NFT_REG_1), equal([]byte{unix.NFPROTO_IPV4}))
	case want == "ip6":
		c.add(loadMeta(expr.MetaKeyNFPROTO)(unix.NFT_REG_1), equal([]byte{unix.NFPROTO_IPV6}))
	default:
		return fmt.Errorf("%s needs the bridge family", want)
	}
	c.l3 = want
	return nil
}

func equal(value []byte) *expr.Cmp {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: value}
}

// load puts the concatenation of fields into the registers from the first on.
func (c *compiler) load(fs []plan.Field) error {
	at := 0
	for _, f := range fs {
		field, err := fieldOf(f)
		if err != nil {
			return err
		}
		if at+words(field.size) > maxWords {
			return errors.New("the fields together exceed 64 bytes")
		}
		c.add(field.load(register(at)))
		at += words(field.size)
	}
	return nil
}

func (c *compiler) match(m plan.Match) error {
	if err := m.Validate(c.family); err != nil {
		return err
	}
	if err := c.require(m.Fields); err != nil {
		return err
	}
	if err := c.load(m.Fields); err != nil {
		return err
	}
	if m.Set != "" {
		c.add(&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: m.Set, Invert: m.Not})
		return nil
	}
	field, err := fieldOf(m.Fields[0])
	if err != nil {
		return err
	}
	switch {
	case field.flags:
		return c.mask(field, m)
	case len(m.Values) > 1:
		return c.anonymousSet(field, m)
	}
	c.learn(m)
	return c.compare(field, m.Values[0], m.Not)
}

// learn remembers what an explicit match says about the protocol.
func (c *compiler) learn(m plan.Match) {
	if m.Not {
		return
	}
	switch f, v := m.Fields[0], m.Values[0]; {
	case f == plan.NFProto && v == "ipv4":
		c.l3 = "ip"
	case f == plan.NFProto && v == "ipv6":
		c.l3 = "ip6"
	case f == plan.EtherType && (v == "ip" || v == "ip6" || v == "arp"):
		c.l3 = v
	case f == plan.L4Proto:
		if n, err := protoNumber(v); err == nil {
			c.l4 = n
		}
	}
}

// mask tests that any of the bits named is set, or with Not that none is.
func (c *compiler) mask(field field, m plan.Match) error {
	bits, zero := make([]byte, field.size), make([]byte, field.size)
	for _, text := range m.Values {
		v, err := field.value(text)
		if err != nil {
			return err
		}
		for i, b := range v.from {
			bits[i] |= b
		}
	}
	op := expr.CmpOpNeq
	if m.Not {
		op = expr.CmpOpEq
	}
	c.add(
		&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: uint32(field.size),
			Mask: bits, Xor: zero},
		&expr.Cmp{Op: op, Register: unix.NFT_REG_1, Data: zero},
	)
	return nil
}

// compare tests one value: a number, a prefix, a range or the start of a name.
func (c *compiler) compare(field field, text string, not bool) error {
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	if start, wild := strings.CutSuffix(text, wildcard); wild && field.wild && start != "" && len(start) < ifNameSize {
		c.add(&expr.Cmp{Op: op, Register: unix.NFT_REG_1, Data: []byte(start)})
		return nil
	}
	v, err := field.value(text)
	if err != nil {
		return err
	}
	switch mask := prefixMask(v); {
	case bytes.Equal(v.from, v.to):
		c.add(&expr.Cmp{Op: op, Register: unix.NFT_REG_1, Data: v.from})
	case mask != nil:
		c.add(
			&expr.Bitwise{
				SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1,
				Len: uint32(field.size), Mask: mask, Xor: make([]byte, field.size),
			},
			&expr.Cmp{Op: op, Register: unix.NFT_REG_1, Data: v.from},
		)
	case not:
		c.add(&expr.Range{Op: expr.CmpOpNeq, Register: unix.NFT_REG_1, FromData: v.from, ToData: v.to})
	default:
		c.add(
			&expr.Cmp{Op: expr.CmpOpGte, Register: unix.NFT_REG_1, Data: v.from},
			&expr.Cmp{Op: expr.CmpOpLte, Register: unix.NFT_REG_1, Data: v.to},
		)
	}
	return nil
}

// prefixMask is the netmask of an address range that is a prefix, else nil.
func prefixMask(v span) []byte {
	if len(v.from) < 4 {
		return nil // ports: nft(8) shows a mask on them as arithmetic
	}
	mask := make([]byte, len(v.from))
	host := false
	for i := range mask {
		diff := v.from[i] ^ v.to[i]
		switch {
		case host && diff != 0xff, diff&(diff+1) != 0, v.from[i]&diff != 0:
			return nil
		case diff != 0:
			host = true
		}
		mask[i] = ^diff
	}
	return mask
}

func (c *compiler) anonymousSet(field field, m plan.Match) error {
	set := anonymous{typeID: field.typeID, size: field.size}
	if nt, err := typeOf(field.typ); err == nil {
		set.typeID, set.order = nt.id, nt.byteOrder
	}
	for _, text := range m.Values {
		v, err := field.value(text)
		if err != nil {
			return err
		}
		set.interval = set.interval || !bytes.Equal(v.from, v.to)
		set.values = append(set.values, v)
	}
	c.add(&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: anonymousName, SetID: uint32(len(c.out.sets)),
		Invert: m.Not})
	c.out.sets = append(c.out.sets, set)
	return nil
}

func (c *compiler) verdict(r plan.Rule) error {
	kinds := map[plan.Verdict]expr.VerdictKind{
		plan.Accept: expr.VerdictAccept, plan.Drop: expr.VerdictDrop, plan.Return: expr.VerdictReturn,
		plan.Jump: expr.VerdictJump,
	}
	switch r.Verdict {
	case "":
	case plan.Masquerade:
		c.add(&expr.Masq{})
	case plan.ClampMSS:
		c.add(clampMSS()...)
	case plan.VMap:
		if err := c.load(r.Key); err != nil {
			return err
		}
		c.add(&expr.Lookup{SourceRegister: unix.NFT_REG_1, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT,
			SetName: r.Target})
	case plan.DNAT:
		return c.translate(r, expr.NATTypeDestNAT)
	case plan.SNAT:
		return c.translate(r, expr.NATTypeSourceNAT)
	default:
		kind, ok := kinds[r.Verdict]
		if !ok {
			return fmt.Errorf("verdict %q is unknown", r.Verdict)
		}
		c.add(&expr.Verdict{Kind: kind, Chain: r.Target})
	}
	return nil
}

// maxSegment is the TCP option of the largest segment (RFC 9293 section 3.7.1): its kind, and where its value is.
const (
	maxSegment      = 2
	maxSegmentValue = 2
)

func clampMSS() []expr.Any {
	return []expr.Any{
		&expr.Rt{Register: unix.NFT_REG_1, Key: expr.RtTCPMSS},
		&expr.Byteorder{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Op: expr.ByteorderHton, Len: 2,
			Size: 2},
		&expr.Exthdr{SourceRegister: unix.NFT_REG_1, Type: maxSegment, Offset: maxSegmentValue, Len: 2,
			Op: expr.ExthdrOpTcpopt},
	}
}

// translate looks the new address up. Whether the map has ports too is known to
// a caller that has the map: see compiled.withPorts.
func (c *compiler) translate(r plan.Rule, as expr.NATType) error {
	family := uint32(unix.NFPROTO_IPV4)
	if r.Addr == "ip6" {
		family = unix.NFPROTO_IPV6
	}
	if err := c.load(r.Key); err != nil {
		return err
	}
	c.add(
		&expr.Lookup{SourceRegister: unix.NFT_REG_1, IsDestRegSet: true, DestRegister: unix.NFT_REG_1,
			SetName: r.Target},
		&expr.NAT{Type: as, Family: family, RegAddrMin: unix.NFT_REG_1},
	)
	return nil
}

// withPorts makes a DNAT take the port from the map as well, where its data is
// address and port.
func (c compiled) withPorts() {
	for _, e := range c.exprs {
		if nat, ok := e.(*expr.NAT); ok {
			size := 4
			if nat.Family == unix.NFPROTO_IPV6 {
				size = 16
			}
			nat.RegProtoMin = register(words(size))
		}
	}
}
