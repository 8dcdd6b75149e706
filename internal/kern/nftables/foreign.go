package nftables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/kern/attr"
	"github.com/vethloom/vethloom/plan"
)

// Named are links that rules are about.
type Named struct {
	names   map[string]bool // a star at the end stands for anything
	indexes map[uint32]bool
	devices map[string]bool // that chains are at; they are among the names
}

// Devices are those that chains are at, sorted.
func (n Named) Devices() []string { return slices.Sorted(maps.Keys(n.devices)) }

// Names are sorted. Those of links that are named by their index are looked up by it.
func (n Named) Names(byIndex func(uint32) string) []string {
	out := maps.Clone(n.names)
	for i := range n.indexes {
		if name := byIndex(i); name != "" {
			out[name] = true
		}
	}
	return slices.Sorted(maps.Keys(out))
}

// nameKeys are what meta expressions load the name of a link by.
var nameKeys = []uint32{unix.NFT_META_IIFNAME, unix.NFT_META_OIFNAME, unix.NFT_META_BRI_IIFNAME,
	unix.NFT_META_BRI_OIFNAME}

const (
	nftaHookDevs   = 4 // NFTA_HOOK_DEVS
	firstAttribute = 1 // of expressions
	nfDrop         = 0 // NF_DROP, as a policy
)

// chainID is a chain among those of all families.
type chainID struct {
	family       byte
	table, chain string
}

// foreigners reads the rules of others.
type foreigners struct {
	ours   func(chain string) bool
	own    map[chainID]bool // chains of what is for the host itself, or from it
	others bool             // there are chains of others
	sets   map[part]bool    // of keys that links are looked for in
	named  Named
}

type setID struct {
	family     byte
	table, set string
}

// part is where the keys of a set have a link.
type part struct {
	setID
	at    int  // bytes into the key
	index bool // it is the link's, else its name
}

func newForeigners(ours func(chain string) bool) *foreigners {
	return &foreigners{ours: ours, own: map[chainID]bool{}, sets: map[part]bool{},
		named: Named{map[string]bool{}, map[uint32]bool{}, map[string]bool{}}}
}

// ForeignLinks are the links that rules of others are about, on the way of what is forwarded: by their names, in sets,
// and by devices that chains are at. Rules that only accept, and chains for the host itself, are left out.
// Ours tells which chains outside of vethloom's tables are its own.
func (r *Rules) ForeignLinks(ctx context.Context, ours func(chain string) bool) (out Named, err error) {
	r.reading.Lock()
	defer r.reading.Unlock()
	for range reads {
		f := newForeigners(ours)
		if err = f.read(ctx, r.reader); !errors.Is(err, errInterrupted) {
			return f.named, err
		}
	}
	return out, err
}

func (f *foreigners) read(ctx context.Context, s *conn) error {
	none := func(*wire) {}
	if err := s.request(ctx, unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP, unix.NFPROTO_UNSPEC, none, f.chain); err != nil {
		return fmt.Errorf("list chains: %w", err)
	}
	if !f.others {
		return nil // nobody else has any
	}
	if err := s.request(ctx, unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP, unix.NFPROTO_UNSPEC, none, f.rule); err != nil {
		return fmt.Errorf("list rules: %w", err)
	}
	for p := range f.sets {
		err := s.request(ctx, unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP, p.family, func(w *wire) {
			w.Str(unix.NFTA_SET_ELEM_LIST_TABLE, p.table)
			w.Str(unix.NFTA_SET_ELEM_LIST_SET, p.set)
		}, func(m message) { f.elements(m, p) })
		if errors.Is(err, unix.ENOENT) {
			return errInterrupted // it went with its rule
		}
		if err != nil {
			return fmt.Errorf("list the elements of %s %s: %w", p.table, p.set, err)
		}
	}
	return nil
}

// chain looks at a chain: whether it is on the way of what is forwarded, and at which devices it is. What a network
// forwards comes to its bridge itself, or from it, where it is routed; and a bridge's chain that lets in only what it
// knows is about all of them.
func (f *foreigners) chain(m message) {
	id := chainID{family: m.family()}
	var hook []byte
	accepts := true
	for typ, data := range attr.All(m.payload()) {
		switch typ {
		case unix.NFTA_CHAIN_TABLE:
			id.table = attr.Text(data)
		case unix.NFTA_CHAIN_NAME:
			id.chain = attr.Text(data)
		case unix.NFTA_CHAIN_HOOK:
			hook = data
		case unix.NFTA_CHAIN_POLICY:
			accepts = attr.BE32(data) != nfDrop
		}
	}
	if id.table == plan.Table {
		return
	}
	f.others = true
	if hook == nil {
		return
	}
	f.devices(hook) // of netdev, and of inet's ingress
	switch name, _ := decodeHook(hook); {
	case id.family == unix.NFPROTO_BRIDGE && !accepts:
		f.named.names["*"] = true
	case id.family != unix.NFPROTO_BRIDGE && id.family != unix.NFPROTO_NETDEV && (name == "input" || name == "output"):
		f.own[id] = true
	}
}

// devices notes those that a chain is at.
func (f *foreigners) devices(hook []byte) {
	for typ, data := range attr.All(hook) {
		switch typ {
		case unix.NFTA_HOOK_DEV:
			f.named.devices[attr.Text(data)] = true
		case nftaHookDevs:
			for _, dev := range attr.All(data) {
				f.named.devices[attr.Text(dev)] = true
			}
		}
	}
	maps.Copy(f.named.names, f.named.devices)
}

func (f *foreigners) rule(m message) {
	r, table := decodeRule(m.payload())
	if table != plan.Table && !f.ours(r.chain) && !f.own[chainID{m.family(), table, r.chain}] {
		f.expressions(part{setID: setID{family: m.family(), table: table}}, r.exprs)
	}
}

// RuleNamesLink reports whether a rule of others, as the kernel tells of it, is about a link.
func RuleNamesLink(payload []byte, ours func(chain string) bool) bool {
	f := newForeigners(ours)
	r, table := decodeRule(payload)
	if table == plan.Table || ours(r.chain) {
		return false
	}
	f.expressions(part{}, r.exprs)
	return len(f.named.names)+len(f.named.indexes)+len(f.sets) > 0
}

// expressions follows the names and indexes of links through the registers of a rule.
func (f *foreigners) expressions(in part, exprs [][]byte) {
	if accepts(exprs) {
		return
	}
	names := map[int]bool{}   // registers by their places, in bytes
	indexes := map[int]bool{} // those that have the index of a link
	for _, e := range exprs {
		kind, data := expression(e)
		a := attributes(data)
		switch kind {
		case "cmp":
			at, value := place(a[unix.NFTA_CMP_SREG]), dataValue(a[unix.NFTA_CMP_DATA])
			if names[at] {
				f.name(value)
			} else if indexes[at] && len(value) == 4 {
				f.named.indexes[attr.U32(value)] = true
			}
		case "lookup":
			in.set = attr.Text(a[unix.NFTA_LOOKUP_SET])
			f.key(in, place(a[unix.NFTA_LOOKUP_SREG]), names, indexes)
		case "objref": // a counter or a quota, maybe by a map
			in.set = attr.Text(a[unix.NFTA_OBJREF_SET_NAME])
			f.key(in, place(a[unix.NFTA_OBJREF_SET_SREG]), names, indexes)
		default: // all that loads something says the register first
			to := place(a[firstAttribute])
			delete(names, to)
			delete(indexes, to)
			if kind == "meta" {
				key := attr.BE32(a[unix.NFTA_META_KEY])
				names[to] = slices.Contains(nameKeys, key)
				indexes[to] = key == unix.NFT_META_IIF || key == unix.NFT_META_OIF
			}
		}
	}
}

// key notes where the keys of a set that begin in a register have links: of what is joined into one key, any part may.
func (f *foreigners) key(in part, from int, names, indexes map[int]bool) {
	if in.set == "" {
		return
	}
	for kind, registers := range map[bool]map[int]bool{false: names, true: indexes} {
		for at, is := range registers {
			if in.at, in.index = at-from, kind; is && at >= from {
				f.sets[in] = true
			}
		}
	}
}

// name notes a name as it is compared: without its end, it is a prefix.
func (f *foreigners) name(value []byte) {
	name, _, whole := bytes.Cut(value, []byte{0})
	if whole {
		f.named.names[string(name)] = true
	} else {
		f.named.names[string(name)+"*"] = true
	}
}

// elements notes the links that a part of the keys of a set has. Some sets have prefixes of names, which look the same.
func (f *foreigners) elements(m message, p part) {
	for typ, data := range attr.All(m.payload()) {
		if typ != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			continue
		}
		for _, e := range attr.All(data) {
			key := dataValue(attributes(e)[unix.NFTA_SET_ELEM_KEY])
			if p.index && len(key) >= p.at+4 {
				f.named.indexes[attr.U32(key[p.at:])] = true
			}
			if p.index || len(key) <= p.at {
				continue
			}
			if name, _, _ := bytes.Cut(key[p.at:min(len(key), p.at+unix.IFNAMSIZ)], []byte{0}); len(name) > 0 {
				f.named.names[string(name)+"*"] = true
			}
		}
	}
}

// looks are the expressions that change nothing and tell nobody. The first four do so where they load a register: they
// can set a mark, a header or what tracking knows of a connection as well.
var looks = []string{"meta", "payload", "ct", "exthdr", "cmp", "lookup", "range", "bitwise", "byteorder", "counter",
	"limit", "quota", "connlimit", "fib", "rt", "socket", "hash", "numgen", "osf", "xfrm", "tunnel", "match"}

// accepts reports whether all a rule can do is to accept.
func accepts(exprs [][]byte) bool {
	for i, e := range exprs {
		kind, data := expression(e)
		a := attributes(data)
		if i == len(exprs)-1 {
			return kind == "immediate" && dataVerdict(a[unix.NFTA_IMMEDIATE_DATA]) == "accept"
		}
		at := slices.Index(looks, kind)
		if at < 0 || at < 4 && a[firstAttribute] == nil {
			return false
		}
	}
	return false
}

// expression is one of a rule: its name, and its attributes.
func expression(b []byte) (kind string, data []byte) {
	a := attributes(b)
	return attr.Text(a[unix.NFTA_EXPR_NAME]), a[unix.NFTA_EXPR_DATA]
}

func attributes(b []byte) map[uint16][]byte {
	out := map[uint16][]byte{}
	for typ, data := range attr.All(b) {
		out[typ] = data
	}
	return out
}

// place is where a register begins, in bytes: four of 16 bytes lie over 16 of 4 (linux/netfilter/nf_tables.h).
func place(register []byte) int {
	r := attr.BE32(register)
	if r >= unix.NFT_REG32_00 {
		return int(unix.NFT_REG_1)*16 + int(r-unix.NFT_REG32_00)*4
	}
	return int(r) * 16
}
