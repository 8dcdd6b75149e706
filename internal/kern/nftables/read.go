package nftables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/kern/attr"
	"github.com/vethloom/vethloom/plan"
)

// readSet is a set as the kernel declares it.
type readSet struct {
	plan.Set
	flags uint32
}

// declaredFlags are the flags that [plan.Set] says a set has.
func declaredFlags(s plan.Set) (flags uint32) {
	if s.Interval {
		flags |= unix.NFT_SET_INTERVAL
		if len(s.KeyTypes) > 1 {
			flags |= nftSetConcat
		}
	}
	if len(s.Data) > 0 {
		flags |= unix.NFT_SET_MAP
	}
	return flags
}

// declared is the set as it is compared: one with flags that no set of a plan has
// gets a key type that none has.
func (s readSet) declared() plan.Set {
	if s.flags == declaredFlags(s.Set) {
		return s.Set
	}
	odd := s.Set
	odd.KeyTypes = append([]plan.DataType{plan.DataType(fmt.Sprintf("flags-%#x", s.flags))}, s.KeyTypes...)
	return odd
}

func decodeSet(f plan.Family, b []byte) (s readSet, table string) {
	s.Family = f
	for typ, data := range attr.All(b) {
		switch typ {
		case unix.NFTA_SET_TABLE:
			table = attr.Text(data)
		case unix.NFTA_SET_NAME:
			s.Name = attr.Text(data)
		case unix.NFTA_SET_FLAGS:
			s.flags = attr.BE32(data)
			s.Interval = s.flags&unix.NFT_SET_INTERVAL != 0
		case unix.NFTA_SET_KEY_TYPE:
			s.KeyTypes = typesOf(attr.BE32(data))
		case unix.NFTA_SET_DATA_TYPE:
			s.Data = typesOf(attr.BE32(data))
		}
	}
	return s, table
}

// set reads the declaration of one set; the error wraps ENOENT when it is away.
func (s *conn) set(ctx context.Context, f plan.Family, name string) (out plan.Set, err error) {
	err = s.request(ctx, unix.NFT_MSG_GETSET, 0, familyNumber(f), func(w *wire) {
		w.Str(unix.NFTA_SET_TABLE, plan.Table)
		w.Str(unix.NFTA_SET_NAME, name)
	}, func(m message) {
		found, _ := decodeSet(f, m.payload())
		out = found.declared()
	})
	return out, err
}

// hasTable reports whether the table of a family exists.
func (s *conn) hasTable(ctx context.Context, f plan.Family) (bool, error) {
	err := s.request(ctx, unix.NFT_MSG_GETTABLE, 0, familyNumber(f), func(w *wire) {
		w.Str(unix.NFTA_TABLE_NAME, plan.Table)
	}, func(message) {})
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EOPNOTSUPP):
		return false, nil
	}
	return false, err
}

// readSets lists the named sets of a table that exists.
func (s *conn) readSets(ctx context.Context, f plan.Family) (out []readSet, err error) {
	err = s.request(ctx, unix.NFT_MSG_GETSET, unix.NLM_F_DUMP, familyNumber(f), func(w *wire) {
		w.Str(unix.NFTA_SET_TABLE, plan.Table)
	}, func(m message) {
		found, table := decodeSet(f, m.payload())
		if table == plan.Table && found.flags&unix.NFT_SET_ANONYMOUS == 0 {
			out = append(out, found)
		}
	})
	return out, err
}

// readChains lists the chains of a table, without their rules.
func (s *conn) readChains(ctx context.Context, f plan.Family) (out []plan.Chain, err error) {
	err = s.request(ctx, unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP, familyNumber(f), func(*wire) {}, func(m message) {
		if c, table := decodeChain(f, m.payload()); table == plan.Table && m.family() == familyNumber(f) {
			out = append(out, c)
		}
	})
	return out, err
}

func decodeChain(f plan.Family, b []byte) (c plan.Chain, table string) {
	c.Family = f
	for typ, data := range attr.All(b) {
		switch typ {
		case unix.NFTA_CHAIN_TABLE:
			table = attr.Text(data)
		case unix.NFTA_CHAIN_NAME:
			c.Name = attr.Text(data)
		case unix.NFTA_CHAIN_TYPE:
			c.Base.Type = attr.Text(data)
		case unix.NFTA_CHAIN_POLICY:
			c.Base.Policy = "drop"
			if attr.BE32(data) == codeAccept {
				c.Base.Policy = "accept"
			}
		case unix.NFTA_CHAIN_HOOK:
			c.Base.Hook, c.Base.Priority = decodeHook(data)
		}
	}
	return c, table
}

func decodeHook(b []byte) (hook string, priority int) {
	for typ, data := range attr.All(b) {
		switch typ {
		case unix.NFTA_HOOK_HOOKNUM:
			n := attr.BE32(data)
			if hook = fmt.Sprintf("hook-%d", n); n < uint32(len(hooks)) {
				hook = hooks[n]
			}
		case unix.NFTA_HOOK_PRIORITY:
			priority = int(int32(attr.BE32(data)))
		}
	}
	return hook, priority
}

// readRule is a rule as the kernel has it.
type readRule struct {
	chain  string
	handle []byte
	text   string
	exprs  [][]byte
}

// readRules lists the rules of a table that exists, chain by chain in order.
func (s *conn) readRules(ctx context.Context, f plan.Family) (out []readRule, err error) {
	err = s.request(ctx, unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP, familyNumber(f), func(w *wire) {
		w.Str(unix.NFTA_RULE_TABLE, plan.Table)
	}, func(m message) {
		if r, table := decodeRule(m.payload()); table == plan.Table {
			out = append(out, r)
		}
	})
	return out, err
}

func decodeRule(b []byte) (r readRule, table string) {
	for typ, data := range attr.All(b) {
		switch typ {
		case unix.NFTA_RULE_TABLE:
			table = attr.Text(data)
		case unix.NFTA_RULE_CHAIN:
			r.chain = attr.Text(data)
		case unix.NFTA_RULE_HANDLE:
			r.handle = bytes.Clone(data)
		case unix.NFTA_RULE_USERDATA:
			r.text = userdata(data, ruleTag)
		case unix.NFTA_RULE_EXPRESSIONS:
			for _, item := range attr.All(data) {
				r.exprs = append(r.exprs, bytes.Clone(item))
			}
		}
	}
	return r, table
}

// readElements lists the elements of a set that exists.
func (s *conn) readElements(ctx context.Context, set readSet) ([]plan.Element, error) {
	var entries []entry
	err := s.request(ctx, unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP, familyNumber(set.Family), func(w *wire) {
		w.Str(unix.NFTA_SET_ELEM_LIST_TABLE, plan.Table)
		w.Str(unix.NFTA_SET_ELEM_LIST_SET, set.Name)
	}, func(m message) {
		for typ, data := range attr.All(m.payload()) {
			if typ == unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				entries = decodeEntries(data, entries)
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("elements of set %s: %w", set.Name, err)
	}
	return decodeElements(set.Set, entries), nil
}

// generation is a number that changes with every change to any table.
func (s *conn) generation(ctx context.Context) (gen uint32, err error) {
	err = s.request(ctx, unix.NFT_MSG_GETGEN, 0, unix.AF_UNSPEC, func(*wire) {}, func(m message) {
		for typ, data := range attr.All(m.payload()) {
			if typ == unix.NFTA_GEN_ID {
				gen = attr.BE32(data)
			}
		}
	})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return 0, unsupported("nf_tables (CONFIG_NF_TABLES)")
	}
	return gen, err
}

// objectKey tells chains and sets apart as well.
func objectKey(o plan.Object) string { return plan.KindOf(o) + " " + o.Key() }

// names is the [objectKey] of the chains and sets of a table; none when it is away.
func (s *conn) names(ctx context.Context, f plan.Family) (map[string]bool, error) {
	out := make(map[string]bool)
	if there, err := s.hasTable(ctx, f); err != nil || !there {
		return out, err
	}
	chains, err := s.readChains(ctx, f)
	if err != nil {
		return nil, err
	}
	sets, err := s.readSets(ctx, f)
	if err != nil {
		return nil, err
	}
	for _, c := range chains {
		out[objectKey(c)] = true
	}
	for _, set := range sets {
		out[objectKey(set.Set)] = true
	}
	return out, nil
}

// reads bounds how often a ruleset is read again that changes while it is read.
const reads = 8

// Observe reads both tables; a table that does not exist is empty. A rule that is
// not ours, or was changed, has the verdict [plan.Unknown]; an element of others
// has no scope.
func (r *Rules) Observe(ctx context.Context) (plan.Ruleset, error) {
	r.reading.Lock()
	defer r.reading.Unlock()
	for range reads {
		if err := ctx.Err(); err != nil {
			return plan.Ruleset{}, err
		}
		before, err := r.reader.generation(ctx)
		if err != nil {
			return plan.Ruleset{}, fmt.Errorf("read nftables generation: %w", err)
		}
		out, sets, err := r.reader.ruleset(ctx)
		if errors.Is(err, errInterrupted) || errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return plan.Ruleset{}, fmt.Errorf("read nftables: %w", err)
		}
		if after, err := r.reader.generation(ctx); err != nil || after != before {
			continue
		}
		r.mu.Lock()
		r.sets = sets
		r.mu.Unlock()
		return out, nil
	}
	return plan.Ruleset{}, fmt.Errorf("read nftables: %w", errInterrupted)
}

func (s *conn) ruleset(ctx context.Context) (out plan.Ruleset, known map[string]plan.Set, err error) {
	known = make(map[string]plan.Set)
	for _, f := range []plan.Family{plan.Inet, plan.BridgeTable} {
		if there, err := s.hasTable(ctx, f); err != nil {
			return out, nil, err
		} else if !there {
			continue
		}
		sets, err := s.readSets(ctx, f)
		if err != nil {
			return out, nil, fmt.Errorf("sets: %w", err)
		}
		for _, set := range sets {
			known[set.Key()] = set.declared()
			out.Sets = append(out.Sets, set.declared())
			elements, err := s.readElements(ctx, set)
			if err != nil {
				return out, nil, err
			}
			out.Elements = append(out.Elements, elements...)
		}
		chains, err := s.chains(ctx, f, known)
		if err != nil {
			return out, nil, err
		}
		out.Chains = append(out.Chains, chains...)
	}
	return out, known, nil
}

// chains reads the chains of a table with their rules.
func (s *conn) chains(ctx context.Context, f plan.Family, sets map[string]plan.Set) ([]plan.Chain, error) {
	out, err := s.readChains(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("chains: %w", err)
	}
	read, err := s.readRules(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	for _, r := range read {
		i := slices.IndexFunc(out, func(c plan.Chain) bool { return c.Name == r.chain })
		if i < 0 {
			return nil, errInterrupted
		}
		out[i].Rules = append(out[i].Rules, recognise(f, r, sets))
	}
	return out, nil
}

// ForeignChain reports whether a table of others has a chain of the name in a family of nf_tables: those of
// the newer iptables are such.
func (r *Rules) ForeignChain(ctx context.Context, family byte, table, chain string) (found bool, err error) {
	return r.foreignChain(ctx, family, func(in, name string) bool { return in == table && name == chain })
}

// ChainsOf reports whether a chain of IPv4 or IPv6 has a name that is as wanted, in any table.
func (r *Rules) ChainsOf(ctx context.Context, wanted func(chain string) bool) (bool, error) {
	for _, family := range []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
		found, err := r.foreignChain(ctx, family, func(_, name string) bool { return wanted(name) })
		if err != nil || found {
			return found, err
		}
	}
	return false, nil
}

func (r *Rules) foreignChain(ctx context.Context, family byte, is func(table, chain string) bool) (found bool,
	err error) {
	r.reading.Lock()
	defer r.reading.Unlock()
	for range reads {
		found = false
		err = r.reader.request(ctx, unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP, family, func(*wire) {}, func(m message) {
			c, in := decodeChain("", m.payload())
			found = found || m.family() == family && is(in, c.Name)
		})
		if !errors.Is(err, errInterrupted) {
			break
		}
	}
	return found, err
}
