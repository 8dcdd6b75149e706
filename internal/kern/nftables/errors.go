package nftables

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/kern/attr"
	"github.com/vethloom/vethloom/plan"
)

// unsupported is an error that names the feature the kernel lacks.
func unsupported(feature string) error {
	return fmt.Errorf("%w: %s", plan.ErrUnsupported, feature)
}

// explainAll is the error of a transaction that was refused as a whole.
func (t *transaction) explainAll(r refusal) error {
	what := fmt.Sprintf("nftables transaction of %d operations", len(t.ops))
	switch r.errno {
	case unix.EOPNOTSUPP, unix.EAFNOSUPPORT:
		return fmt.Errorf("%s: %w", what, unsupported("nf_tables (CONFIG_NF_TABLES)"))
	case unix.EPERM:
		return fmt.Errorf("%s: %w: CAP_NET_ADMIN is needed", what, withText(r.errno, r.text))
	}
	return fmt.Errorf("%s: %w", what, withText(r.errno, r.text))
}

// explain is the error of an operation, in words that name its object.
func (t *transaction) explain(b *batch, r refusal) error {
	msg := b.sent[r.message]
	n := msg.subject[0].op
	for _, s := range msg.subject {
		if s.offset <= r.offset {
			n = s.op
		}
	}
	op := t.ops[n]
	err := reason(b, msg, r, familyOf(op))
	if msg.detail != "" {
		err = fmt.Errorf("rule %q: %w", msg.detail, err)
	}
	return &plan.OpError{Op: op, Err: err}
}

// reason puts an error number into words, by what was asked for.
func reason(b *batch, msg sentMessage, r refusal, f plan.Family) error {
	err := withText(r.errno, r.text)
	if msg.typ == unix.NFT_MSG_NEWCHAIN && (r.errno == unix.EEXIST || r.errno == unix.EOPNOTSUPP) {
		return fmt.Errorf("%w: a chain of this name has another hook, or one of its type cannot have this hook and "+
			"priority", err)
	}
	switch r.errno {
	case unix.EPERM:
		return fmt.Errorf("%w: CAP_NET_ADMIN is needed", err)
	case unix.EEXIST:
		return fmt.Errorf("%w: another one with this name or key has other content", err)
	case unix.EBUSY:
		return fmt.Errorf("%w: a rule or an element still refers to it", err)
	case unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT:
		return fmt.Errorf("%w: %w", unsupported(feature(msg.typ, f)), err)
	case unix.ENOENT:
		return missing(b, msg, r, f, err)
	}
	return err
}

// missing explains ENOENT: of a chain type or an expression it means that the
// kernel has none such, of anything else that the object is away.
func missing(b *batch, msg sentMessage, r refusal, f plan.Family, err error) error {
	switch msg.typ {
	case unix.NFT_MSG_NEWCHAIN:
		return fmt.Errorf("%w: %w", unsupported(feature(msg.typ, f)), err)
	case unix.NFT_MSG_NEWRULE:
		if typ, text := attrAt(b.w.B[msg.at:], r.offset); typ == unix.NFTA_EXPR_NAME {
			return fmt.Errorf("%w: %w", unsupported("the nf_tables expression "+text), err)
		}
		return fmt.Errorf("%w: it names a set, map or chain that does not exist", err)
	case unix.NFT_MSG_NEWSETELEM:
		return fmt.Errorf("%w: the set or the chain it names does not exist", err)
	}
	return fmt.Errorf("%w: it does not exist", err)
}

// attrAt is the attribute at an offset of a message, as a string.
func attrAt(msg []byte, offset int) (typ uint16, text string) {
	if offset <= 0 || offset >= len(msg) {
		return 0, ""
	}
	for typ, data := range attr.All(msg[offset:]) {
		return typ, attr.Text(data)
	}
	return 0, ""
}

// feature names what a kernel needs for a message in a family.
func feature(typ uint16, f plan.Family) string {
	family := "nf_tables " + string(f) + " tables (CONFIG_NF_TABLES_INET)"
	if f == plan.BridgeTable {
		family = "nf_tables bridge tables (CONFIG_NF_TABLES_BRIDGE)"
	}
	switch typ {
	case unix.NFT_MSG_NEWCHAIN:
		return family + " or their chain type (CONFIG_NFT_NAT for nat)"
	case unix.NFT_MSG_NEWSET, unix.NFT_MSG_NEWSETELEM:
		return "nf_tables sets of concatenated intervals (Linux 5.6)"
	case unix.NFT_MSG_NEWRULE:
		return "an nf_tables expression in " + family
	}
	return family
}
