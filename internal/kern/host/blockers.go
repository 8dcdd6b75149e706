package host

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"

	nft "github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/vethloom/vethloom/internal/kern/netns"
	"github.com/vethloom/vethloom/plan"
)

// Blocker is a rule of others that drops or rejects packets which are forwarded, and how many its counter has seen.
type Blocker struct {
	Chain   string // "ip filter FORWARD"
	Rule    string // as the tool lists it; its handle where there is no tool
	Packets uint64
}

// ForwardBlockers are the rules of others that have stopped packets on their way through the host, by their counters.
// Rules about what conntrack calls invalid are left out, as are those that do not count.
func (h *Host) ForwardBlockers(ctx context.Context) ([]Blocker, error) {
	conn, err := nft.New(nft.WithNetNSFd(h.fd))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	chains, err := conn.ListChains()
	if err != nil && !NoNftables(err) {
		return nil, fmt.Errorf("list the firewall's chains: %w", err)
	}
	w := &blockerWalk{conn: conn, seen: map[*nft.Chain]bool{}, chains: map[string]*nft.Chain{}}
	for _, c := range chains {
		w.chains[chainKey(c.Table, c.Name)] = c
	}
	for _, c := range chains {
		if c.Hooknum != nil && *c.Hooknum == *nft.ChainHookForward && c.Table.Name != plan.Table {
			w.walk(c)
		}
	}
	for i, b := range w.found {
		w.found[i].Rule = h.ruleText(ctx, b)
	}
	legacy, err := h.legacyBlockers(ctx)
	return append(w.found, legacy...), err
}

func familyWord(f nft.TableFamily) string {
	return map[nft.TableFamily]string{nft.TableFamilyIPv4: "ip", nft.TableFamilyIPv6: "ip6",
		nft.TableFamilyINet: "inet"}[f]
}

func chainKey(t *nft.Table, name string) string {
	return familyWord(t.Family) + " " + t.Name + " " + name
}

// blockerWalk goes through what forward chains lead to.
type blockerWalk struct {
	conn   *nft.Conn
	chains map[string]*nft.Chain
	seen   map[*nft.Chain]bool
	found  []Blocker
}

func (w *blockerWalk) walk(c *nft.Chain) {
	if w.seen[c] || familyWord(c.Table.Family) == "" || strings.HasPrefix(c.Name, "VETHLOOM-") {
		return
	}
	w.seen[c] = true
	rules, err := w.conn.GetRules(c.Table, c)
	if err != nil {
		return // it went meanwhile
	}
	for _, r := range rules {
		packets, stops, to := judge(r)
		if next := w.chains[chainKey(c.Table, to)]; next != nil {
			w.walk(next)
		}
		if stops && packets > 0 {
			w.found = append(w.found, Blocker{chainKey(c.Table, c.Name), strconv.FormatUint(r.Handle, 10), packets})
		}
	}
}

// judge tells what a rule has counted, whether it stops packets, and which chain it leads to.
func judge(r *nft.Rule) (packets uint64, stops bool, to string) {
	invalid := false
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Counter:
			packets = e.Packets
		case *expr.Ct:
			invalid = true
		case *expr.Match:
			invalid = invalid || e.Name == "conntrack" || e.Name == "state"
		case *expr.Reject:
			stops = true
		case *expr.Target:
			stops = stops || e.Name == "REJECT"
		case *expr.Verdict:
			stops = stops || e.Kind == expr.VerdictDrop
			to = e.Chain
		}
	}
	return packets, stops && !invalid, to
}

// ruleText is the rule whose handle was found, as nft(8) lists it.
func (h *Host) ruleText(ctx context.Context, b Blocker) string {
	text := "handle " + b.Rule
	_ = netns.Enter(h.fd, func() error { // without nft the handle has to do
		args := append([]string{"-a", "list", "chain"}, strings.Fields(b.Chain)...)
		out, err := exec.CommandContext(ctx, "nft", args...).Output()
		for line := range strings.Lines(string(out)) {
			if rule, ok := strings.CutSuffix(strings.TrimSpace(line), " # handle "+b.Rule); ok {
				text = counted.ReplaceAllString(rule, "")
			}
		}
		return err
	})
	return text
}

// counted is the counter of a rule, as nft(8) and iptables write it.
var counted = regexp.MustCompile(` ?(counter packets|-c) [0-9]+( bytes)? [0-9]+`)

// legacyBlockers are those of the older iptables, policies among them.
func (h *Host) legacyBlockers(ctx context.Context) (out []Blocker, err error) {
	for _, f := range ipFamilies() {
		variants, err := h.filterVariants(ctx, f)
		if err != nil {
			return nil, err
		}
		for _, variant := range variants {
			text, err := h.listed(ctx, f.tool+"-"+variant)
			if err != nil {
				return nil, err
			}
			for line := range strings.Lines(text) {
				b, ok := legacyBlocker(f.name, variant, strings.TrimSpace(line))
				if ok && !slices.Contains(out, b) {
					out = append(out, b)
				}
			}
		}
	}
	return out, nil
}

func (h *Host) listed(ctx context.Context, tool string) (text string, err error) {
	err = netns.Enter(h.fd, func() error {
		out, err := exec.CommandContext(ctx, tool, "-w", "-v", "-S").Output()
		text = string(out)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("%s -S: %w", tool, err)
	}
	return text, nil
}

// legacyBlocker reads a line of "iptables -v -S". Of the newer iptables only policies are of interest: its rules are
// nftables' own.
func legacyBlocker(family, variant, line string) (Blocker, bool) {
	f := strings.Fields(line)
	at := slices.Index(f, "-c")
	if at < 0 || at+1 >= len(f) {
		return Blocker{}, false
	}
	packets, err := strconv.ParseUint(f[at+1], 10, 64)
	b := Blocker{family + " " + filterTable + " " + f[1], counted.ReplaceAllString(line, ""), packets}
	stops := strings.HasPrefix(line, "-P "+forwardChain+" DROP")
	if variant == variantLegacy && f[0] == "-A" && !strings.Contains(strings.ToUpper(f[1]), "INPUT") &&
		!strings.Contains(line, "--ctstate") && !strings.HasPrefix(f[1], "VETHLOOM-") {
		to := slices.Index(f, "-j")
		stops = to > 0 && (f[to+1] == "DROP" || f[to+1] == "REJECT")
	}
	return b, err == nil && stops && packets > 0
}
