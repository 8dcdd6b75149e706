package nftables

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/kern/attr"
	"github.com/vethloom/vethloom/plan"
)

// nameChain is the chain of a sandbox that leads questions to the sockets of its name server.
const nameChain = "names"

// dnsPort is where programs ask for names.
const dnsPort = 53

// SetNamePort has what is sent to port 53 of addr, inside of the namespace, come to another port, and the answers
// look as if they came from port 53. addr is an IPv4 address on loopback.
//
// It changes packets and keeps no state: connection tracking would cost every packet of the sandbox something. Only a
// program that a sandbox runs can take the chain away; that is found by [HasNamePort].
func SetNamePort(nsFd int, addr netip.Addr, port uint16) error {
	sock, err := dial(nsFd)
	if err != nil {
		return err
	}
	defer sock.close()
	ctx := context.Background()
	b := nameBatch{seq: sock.nextSeq(16)}
	b.control(unix.NFNL_MSG_BATCH_BEGIN)
	b.table(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE)
	b.chain()
	b.flush()
	for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		if err := errors.Join(b.rule(addr, proto, toNames(port)), b.rule(addr, proto, fromNames(port))); err != nil {
			return fmt.Errorf("encode the rules for names: %w", err)
		}
	}
	binary.NativeEndian.PutUint16(b.w.B[b.last+6:],
		binary.NativeEndian.Uint16(b.w.B[b.last+6:])|unix.NLM_F_ACK)
	b.control(unix.NFNL_MSG_BATCH_END)
	if err := sock.send(ctx, b.w.B); err != nil {
		return fmt.Errorf("write the rules for names: %w", err)
	}
	return sock.acknowledged(ctx)
}

// RemoveNamePort takes away all that [SetNamePort] has made in a namespace, which goes on without it.
func RemoveNamePort(nsFd int) error {
	sock, err := dial(nsFd)
	if err != nil {
		return err
	}
	defer sock.close()
	ctx := context.Background()
	b := nameBatch{seq: sock.nextSeq(4)}
	b.control(unix.NFNL_MSG_BATCH_BEGIN)
	b.table(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE) // one that is not there cannot be deleted
	b.table(unix.NFT_MSG_DELTABLE, unix.NLM_F_ACK)
	b.control(unix.NFNL_MSG_BATCH_END)
	if err := sock.send(ctx, b.w.B); err != nil {
		return fmt.Errorf("remove the rules for names: %w", err)
	}
	return sock.acknowledged(ctx)
}

// acknowledged reads the answer to a batch whose last message asks for one.
func (s *conn) acknowledged(ctx context.Context) error {
	msgs, err := s.receive(ctx)
	if err != nil {
		return fmt.Errorf("read the answer about the rules for names: %w", err)
	}
	for _, m := range msgs {
		_, err := answer(m, func(message) {})
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) { // of a new table: no such kind of thing
			err = errors.Join(err, unsupported("rules that change packets (CONFIG_NF_TABLES_IPV4)"))
		}
		if err != nil {
			return fmt.Errorf("write the rules for names: %w", err)
		}
	}
	return nil
}

// HasNamePort reports whether [SetNamePort] is still in force in a namespace.
func HasNamePort(nsFd int, port uint16) (bool, error) {
	sock, err := dial(nsFd)
	if err != nil {
		return false, err
	}
	defer sock.close()
	rules, port53 := 0, 0
	err = sock.request(context.Background(), unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP, unix.NFPROTO_IPV4, func(w *wire) {
		w.Str(unix.NFTA_RULE_TABLE, plan.Table)
		w.Str(unix.NFTA_RULE_CHAIN, nameChain)
	}, func(m message) {
		rules++
		if namesPort(m, port) {
			port53++
		}
	})
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil && rules == nameRules && port53 == nameRules, err
}

// nameRules is how many rules the chain has: two a transport.
const nameRules = 4

// namesPort reports whether a rule has been marked for a port.
func namesPort(m message, port uint16) bool {
	for typ, b := range attr.All(m.payload()) {
		if typ == unix.NFTA_RULE_USERDATA {
			return bytes.Equal(b, portMark(port))
		}
	}
	return false
}

// portMark is what rules for a port carry.
func portMark(port uint16) []byte { return binary.BigEndian.AppendUint16([]byte{ruleTag, 2}, port) }

// rawPriority is NF_IP_PRI_RAW, -300: before all that looks at ports.
const rawPriority = 1<<32 - 300

// nameBatch is a transaction in the table of a sandbox.
type nameBatch struct {
	w    wire
	seq  uint32
	last int // where the last message begins
}

func (b *nameBatch) control(typ uint16) {
	at := b.w.message(typ, 0, b.seq, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	b.w.endMessage(at)
	b.seq++
}

func (b *nameBatch) message(typ, flags uint16, fill func()) {
	b.last = b.w.message(unix.NFNL_SUBSYS_NFTABLES<<8|typ, flags, b.seq, unix.NFPROTO_IPV4, 0)
	fill()
	b.w.endMessage(b.last)
	b.seq++
}

func (b *nameBatch) table(typ, flags uint16) {
	b.message(typ, flags, func() { b.w.Str(unix.NFTA_TABLE_NAME, plan.Table) })
}

// flush takes away the rules that there are. To delete a table would have the kernel wait for all its processors.
func (b *nameBatch) flush() {
	b.message(unix.NFT_MSG_DELRULE, 0, func() {
		b.w.Str(unix.NFTA_RULE_TABLE, plan.Table)
		b.w.Str(unix.NFTA_RULE_CHAIN, nameChain)
	})
}

func (b *nameBatch) chain() {
	b.message(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, func() {
		b.w.Str(unix.NFTA_CHAIN_TABLE, plan.Table)
		b.w.Str(unix.NFTA_CHAIN_NAME, nameChain)
		hook := b.w.Open(unix.NFTA_CHAIN_HOOK)
		b.w.BE32(unix.NFTA_HOOK_HOOKNUM, unix.NF_INET_LOCAL_OUT)
		b.w.BE32(unix.NFTA_HOOK_PRIORITY, rawPriority)
		b.w.Close(hook)
		b.w.BE32(unix.NFTA_CHAIN_POLICY, codeAccept)
		b.w.Str(unix.NFTA_CHAIN_TYPE, "filter")
	})
}

// rewrite is one direction: which address and port a packet must have, and the port that it gets.
type rewrite struct {
	addr     uint32 // offset in the IPv4 header
	at       uint32 // offset of the port
	from, to uint16
	mark     []byte
}

func toNames(port uint16) rewrite { return rewrite{16, 2, dnsPort, port, portMark(port)} }

func fromNames(port uint16) rewrite { return rewrite{12, 0, port, dnsPort, portMark(port)} }

// rule adds a rule that gives packets of a transport another port.
func (b *nameBatch) rule(addr netip.Addr, proto byte, r rewrite) error {
	checksum := uint32(6) // of UDP (RFC 768); of TCP 16 (RFC 9293)
	if proto == unix.IPPROTO_TCP {
		checksum = 16
	}
	network, transport := expr.PayloadBaseNetworkHeader, expr.PayloadBaseTransportHeader
	equal := func(b []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: b} }
	a4 := addr.As4()
	exprs := []expr.Any{
		&expr.Payload{DestRegister: 1, Base: network, Offset: r.addr, Len: 4}, equal(a4[:]),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal([]byte{proto}),
		&expr.Payload{DestRegister: 1, Base: transport, Offset: r.at, Len: 2},
		equal(binary.BigEndian.AppendUint16(nil, r.from)),
		&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, r.to)},
		&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: 1, Base: transport, Offset: r.at, Len: 2,
			CsumType: expr.CsumTypeInet, CsumOffset: checksum},
	}
	var failed error
	b.message(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, func() {
		b.w.Str(unix.NFTA_RULE_TABLE, plan.Table)
		b.w.Str(unix.NFTA_RULE_CHAIN, nameChain)
		list := b.w.Open(unix.NFTA_RULE_EXPRESSIONS)
		for _, e := range exprs {
			raw, err := expr.Marshal(unix.NFPROTO_IPV4, e)
			failed = errors.Join(failed, err)
			b.w.Bytes(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, raw)
		}
		b.w.Close(list)
		b.w.Bytes(unix.NFTA_RULE_USERDATA, r.mark)
	})
	return failed
}
