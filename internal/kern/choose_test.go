package kern

import (
	"errors"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/firewall"
)

func TestChoose(t *testing.T) {
	const all = "nftables, iptables, iptables-nft, iptables-legacy"
	for name, c := range map[string]struct {
		asked   string
		broken  string // what does not work
		want    Choice
		refused string
	}{
		"auto":                  {asked: "auto", want: Choice{Firewall: Nftables}},
		"auto without nftables": {"auto", "nftables", Choice{Firewall: Iptables}, ""},
		"auto, the command is of nftables": {"auto", "nftables, iptables, iptables-nft",
			Choice{Firewall: Iptables, Variant: "legacy"}, ""},
		"auto with nothing": {"auto", all, Choice{},
			"nftables does not work here: no nftables; and iptables does not work here: no iptables"},
		"nftables is not tried":  {"nftables", "nftables", Choice{Firewall: Nftables}, ""},
		"iptables":               {"iptables", "", Choice{Firewall: Iptables}, ""},
		"iptables does not work": {"iptables", all, Choice{}, "iptables does not work here: no iptables"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := choose(c.asked, func(firewall, variant string) error {
				what := strings.TrimSuffix(firewall+"-"+variant, "-")
				for b := range strings.SplitSeq(c.broken, ", ") {
					if b == what {
						return errors.New("no " + what)
					}
				}
				return nil
			})
			if (got.Why != nil) != (c.asked == "auto" && strings.Contains(c.broken, "nftables") && c.refused == "") {
				t.Errorf("why: %v", got.Why)
			}
			got.Why = nil
			if got != c.want || c.refused == "" != (err == nil) || err != nil && err.Error() != c.refused {
				t.Errorf("%+v, %v; want %+v, %q", got, err, c.want, c.refused)
			}
		})
	}
}

// Here all of them work, with what the fabric and a network are made of.
func TestChooseTries(t *testing.T) {
	for _, c := range []struct{ firewall, variant string }{{Nftables, ""}, {Iptables, ""}, {Iptables, "nft"},
		{Iptables, "legacy"}} {
		if err := try(t.Context(), c.firewall, c.variant, firewall.Trial()); err != nil {
			t.Errorf("%s %s: %v", c.firewall, c.variant, err)
		}
	}
	if err := try(t.Context(), Iptables, "none", firewall.Trial()); err == nil {
		t.Error("a variant that is not there works")
	}
}
