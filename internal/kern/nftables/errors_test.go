package nftables

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/kern/attr"
	"github.com/vethloom/vethloom/plan"
)

// TestRefusals feeds the answers that kernels give which lack something; this one lacks
// nothing, so they cannot be provoked.
func TestRefusals(t *testing.T) {
	base := testBase("filter", "prerouting", -300)
	chain := testChain(t, plan.BridgeTable, "source", base, "iifname eth0 masquerade")
	set := plan.Set{Family: plan.Inet, Name: "local4", KeyTypes: []plan.DataType{plan.TypeIPv4, plan.TypeIfName},
		Interval: true}
	tr := transaction{
		ops:  []plan.Op{{Verb: plan.Create, Object: chain}, {Verb: plan.Create, Object: set}},
		sets: map[string]plan.Set{},
	}
	b, err := tr.build(1)
	if err != nil {
		t.Fatal(err)
	}
	message := func(typ uint16) int {
		for i, m := range b.sent {
			if m.typ == typ {
				return i
			}
		}
		t.Fatalf("no message of type %d", typ)
		return 0
	}
	// Where the name of the second expression, the masquerade, is in its message.
	rule := b.sent[message(unix.NFT_MSG_NEWRULE)]
	name := strings.Index(string(b.w.B[rule.at:]), "masq\x00") - attr.HeaderLen
	for what, c := range map[string]struct {
		refusal refusal
		words   []string
		is      error
	}{
		"no bridge family": {
			refusal{message(unix.NFT_MSG_NEWCHAIN), 0, unix.ENOENT, ""},
			[]string{"create chain bridge source", "CONFIG_NF_TABLES_BRIDGE"}, plan.ErrUnsupported,
		},
		"no such family": {
			refusal{message(unix.NFT_MSG_NEWTABLE), 0, unix.EAFNOSUPPORT, ""},
			[]string{"CONFIG_NF_TABLES_BRIDGE"}, plan.ErrUnsupported,
		},
		"no expression": {
			refusal{message(unix.NFT_MSG_NEWRULE), name, unix.ENOENT, ""},
			[]string{"expression masq", `rule "iifname eth0 masquerade"`}, plan.ErrUnsupported,
		},
		"no object": {refusal{message(unix.NFT_MSG_NEWRULE), 0, unix.ENOENT, ""}, []string{"does not exist"},
			unix.ENOENT},
		"no intervals": {
			refusal{message(unix.NFT_MSG_NEWSET), 0, unix.EOPNOTSUPP, ""},
			[]string{"create set inet local4", "Linux 5.6"}, plan.ErrUnsupported,
		},
		"no right": {refusal{message(unix.NFT_MSG_NEWSET), 0, unix.EPERM, ""}, []string{"CAP_NET_ADMIN"},
			unix.EPERM},
		"its own word": {refusal{message(unix.NFT_MSG_NEWSET), 0, unix.EINVAL, "bad luck"}, []string{"bad luck"},
			unix.EINVAL},
		"no nf_tables": {refusal{-1, 0, unix.EOPNOTSUPP, ""}, []string{"2 operations", "CONFIG_NF_TABLES"},
			plan.ErrUnsupported},
		"no privilege": {refusal{-1, 0, unix.EPERM, ""}, []string{"CAP_NET_ADMIN"}, unix.EPERM},
		"no memory":    {refusal{-1, 0, unix.ENOMEM, ""}, []string{"2 operations"}, unix.ENOMEM},
	} {
		again, err := tr.settle(b, []refusal{c.refusal})
		if again || !errors.Is(err, c.is) {
			t.Errorf("%s: error %v is not %v", what, err, c.is)
			continue
		}
		for _, word := range c.words {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%s: %q lacks %q", what, err, word)
			}
		}
	}
}
