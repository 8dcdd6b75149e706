package nftables

import (
	"fmt"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/plan"
)

// ruleTag marks a rule's text in its userdata. nft(8) knows tags 0 and 1 and
// ignores the others, so that its listing shows the rule alone.
const ruleTag = 'v'

// batch is a transaction as it is sent: messages between a begin and an end.
type batch struct {
	w     wire
	first uint32 // sequence number of the begin message
	sent  []sentMessage
	setID uint32
}

// sentMessage remembers what a message was for, to name it when the kernel refuses it.
type sentMessage struct {
	at      int
	typ     uint16
	subject []subject
	detail  string // the rule, for a message about a rule
}

// subject is an operation that a message carries, from an offset on.
type subject struct {
	offset int
	op     int // index in the transaction
}

func familyNumber(f plan.Family) byte {
	if f == plan.BridgeTable {
		return unix.NFPROTO_BRIDGE
	}
	return unix.NFPROTO_INET
}

func newBatch(first uint32) *batch {
	b := &batch{first: first}
	at := b.w.message(unix.NFNL_MSG_BATCH_BEGIN, 0, first, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	b.w.endMessage(at)
	return b
}

// begin starts a message about operation op; fields follow, then end.
func (b *batch) begin(typ, flags uint16, f plan.Family, op int) int {
	seq := b.first + 1 + uint32(len(b.sent))
	at := b.w.message(unix.NFNL_SUBSYS_NFTABLES<<8|typ, flags, seq, familyNumber(f), 0)
	b.sent = append(b.sent, sentMessage{at: at, typ: typ, subject: []subject{{0, op}}})
	return at
}

// finish asks for an acknowledgement of the last message, so that success is
// told too, and ends the transaction.
func (b *batch) finish() {
	last := b.w.B[b.sent[len(b.sent)-1].at:]
	last[6] |= unix.NLM_F_ACK
	seq := b.first + 1 + uint32(len(b.sent))
	at := b.w.message(unix.NFNL_MSG_BATCH_END, 0, seq, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	b.w.endMessage(at)
}

func (b *batch) newTable(f plan.Family, op int) {
	at := b.begin(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, f, op)
	b.w.Str(unix.NFTA_TABLE_NAME, plan.Table)
	b.w.endMessage(at)
}

func (b *batch) delTable(f plan.Family, op int) {
	at := b.begin(unix.NFT_MSG_DELTABLE, 0, f, op)
	b.w.Str(unix.NFTA_TABLE_NAME, plan.Table)
	b.w.endMessage(at)
}

// hooks are the numbers of the hooks, the same in both families (linux/netfilter.h, linux/netfilter_bridge.h).
var hooks = [...]string{"prerouting", "input", "forward", "output", "postrouting", "ingress"}

func hookNumber(name string) (uint32, error) {
	for i, h := range hooks {
		if h == name {
			return uint32(i), nil
		}
	}
	return 0, fmt.Errorf("hook %q is unknown", name)
}

func (b *batch) newChain(c plan.Chain, op int) error {
	at := b.begin(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, c.Family, op)
	b.w.Str(unix.NFTA_CHAIN_TABLE, plan.Table)
	b.w.Str(unix.NFTA_CHAIN_NAME, c.Name)
	if c.Base != (plan.Base{}) {
		number, err := hookNumber(c.Base.Hook)
		if err != nil {
			return err
		}
		hook := b.w.Open(unix.NFTA_CHAIN_HOOK)
		b.w.BE32(unix.NFTA_HOOK_HOOKNUM, number)
		b.w.BE32(unix.NFTA_HOOK_PRIORITY, uint32(int32(c.Base.Priority)))
		b.w.Close(hook)
		policy := uint32(codeAccept)
		if c.Base.Policy == "drop" {
			policy = codeDrop
		}
		b.w.BE32(unix.NFTA_CHAIN_POLICY, policy)
		b.w.Str(unix.NFTA_CHAIN_TYPE, c.Base.Type)
	}
	b.w.endMessage(at)
	return nil
}

func (b *batch) delChain(c plan.Chain, op int) {
	at := b.begin(unix.NFT_MSG_DELCHAIN, 0, c.Family, op)
	b.w.Str(unix.NFTA_CHAIN_TABLE, plan.Table)
	b.w.Str(unix.NFTA_CHAIN_NAME, c.Name)
	b.w.endMessage(at)
}

// flush deletes every rule of a chain.
func (b *batch) flush(c plan.Chain, op int) {
	at := b.begin(unix.NFT_MSG_DELRULE, 0, c.Family, op)
	b.w.Str(unix.NFTA_RULE_TABLE, plan.Table)
	b.w.Str(unix.NFTA_RULE_CHAIN, c.Name)
	b.w.endMessage(at)
}

// appendRule adds a rule at the end of its chain, after the anonymous sets it looks into.
func (b *batch) appendRule(c plan.Chain, r plan.Rule, out compiled, op int) error {
	ids := make([]uint32, len(out.sets))
	for i, set := range out.sets {
		ids[i] = b.anonymousSet(c.Family, set, op)
	}
	for _, e := range out.exprs {
		if l, ok := e.(*expr.Lookup); ok && l.SetName == anonymousName {
			l.SetID = ids[l.SetID]
		}
	}
	text := r.String()
	at := b.begin(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, c.Family, op)
	b.sent[len(b.sent)-1].detail = text
	b.w.Str(unix.NFTA_RULE_TABLE, plan.Table)
	b.w.Str(unix.NFTA_RULE_CHAIN, c.Name)
	list := b.w.Open(unix.NFTA_RULE_EXPRESSIONS)
	for _, e := range out.exprs {
		raw, err := expr.Marshal(familyNumber(c.Family), e)
		if err != nil {
			return fmt.Errorf("rule %q: %w", text, err)
		}
		b.w.Bytes(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, raw)
	}
	b.w.Close(list)
	b.w.Bytes(unix.NFTA_RULE_USERDATA, append(append([]byte{ruleTag, byte(len(text) + 1)}, text...), 0))
	b.w.endMessage(at)
	return nil
}

// anonymousSet declares and fills a set for the next rule and returns its number in the transaction.
func (b *batch) anonymousSet(f plan.Family, set anonymous, op int) uint32 {
	b.setID++
	flags := uint32(unix.NFT_SET_ANONYMOUS | unix.NFT_SET_CONSTANT)
	if set.interval {
		flags |= unix.NFT_SET_INTERVAL
	}
	at := b.begin(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, f, op)
	b.w.Str(unix.NFTA_SET_TABLE, plan.Table)
	b.w.Str(unix.NFTA_SET_NAME, anonymousName)
	b.w.BE32(unix.NFTA_SET_FLAGS, flags)
	b.w.BE32(unix.NFTA_SET_KEY_TYPE, set.typeID)
	b.w.BE32(unix.NFTA_SET_KEY_LEN, uint32(set.size))
	b.w.BE32(unix.NFTA_SET_ID, b.setID)
	b.w.Bytes(unix.NFTA_SET_USERDATA, orderData(0, set.order))
	b.w.endMessage(at)

	at = b.begin(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, f, op)
	b.w.Str(unix.NFTA_SET_ELEM_LIST_TABLE, plan.Table)
	b.w.Str(unix.NFTA_SET_ELEM_LIST_SET, anonymousName)
	b.w.BE32(unix.NFTA_SET_ELEM_LIST_SET_ID, b.setID)
	list := b.w.Open(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	for _, v := range set.values {
		b.value(v.from, 0)
		if next, ok := increment(v.to); set.interval && ok {
			b.value(next, unix.NFT_SET_ELEM_INTERVAL_END)
		}
	}
	b.w.Close(list)
	b.w.endMessage(at)
	return b.setID
}

func (b *batch) value(key []byte, flags uint32) {
	item := b.w.Open(unix.NFTA_LIST_ELEM)
	if flags != 0 {
		b.w.BE32(unix.NFTA_SET_ELEM_FLAGS, flags)
	}
	appendValue(&b.w, unix.NFTA_SET_ELEM_KEY, key)
	b.w.Close(item)
}

func (b *batch) newSet(s plan.Set, op int) error {
	b.setID++
	at := b.begin(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, s.Family, op)
	b.w.Str(unix.NFTA_SET_TABLE, plan.Table)
	b.w.Str(unix.NFTA_SET_NAME, s.Name)
	if err := setAttributes(&b.w, s, 0, b.setID); err != nil {
		return err
	}
	b.w.endMessage(at)
	return nil
}

func (b *batch) delSet(s plan.Set, op int) {
	at := b.begin(unix.NFT_MSG_DELSET, 0, s.Family, op)
	b.w.Str(unix.NFTA_SET_TABLE, plan.Table)
	b.w.Str(unix.NFTA_SET_NAME, s.Name)
	b.w.endMessage(at)
}

// member is an element of a transaction with its operation.
type member struct {
	element plan.Element
	op      int
}

// elements adds (NFT_MSG_NEWSETELEM) or deletes (NFT_MSG_DELSETELEM) members of
// one set, as many in a message as fit, at most limit.
func (b *batch) elements(typ uint16, s plan.Set, members []member, limit int) error {
	flags := uint16(0)
	if typ == unix.NFT_MSG_NEWSETELEM {
		flags = unix.NLM_F_CREATE
	}
	for len(members) > 0 {
		at := b.begin(typ, flags, s.Family, members[0].op)
		msg := &b.sent[len(b.sent)-1]
		b.w.Str(unix.NFTA_SET_ELEM_LIST_TABLE, plan.Table)
		b.w.Str(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
		list := b.w.Open(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		n := 0
		for n < len(members) && n < limit && len(b.w.B)-list < maxNest-maxElement {
			m := members[n]
			if n > 0 {
				msg.subject = append(msg.subject, subject{len(b.w.B) - at, m.op})
			}
			if err := encodeElement(&b.w, s, m.element, typ == unix.NFT_MSG_NEWSETELEM); err != nil {
				return err
			}
			n++
		}
		b.w.Close(list)
		b.w.endMessage(at)
		members = members[n:]
	}
	return nil
}
