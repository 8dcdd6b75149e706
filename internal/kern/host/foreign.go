package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/kern/netns"
	"github.com/vethloom/vethloom/internal/linkname"
	"github.com/vethloom/vethloom/plan"
)

// What another tool's filter table is made of, and how our rules look in it.
const (
	filterTable    = "filter"
	forwardChain   = "FORWARD"
	dockerUser     = "DOCKER-USER"
	acceptComment  = "vethloom"
	iptablesWait   = 5 // seconds for the lock that its users share
	variantNft     = "nft"
	variantLegacy  = "legacy"
	variantDefault = ""
)

// ipFamily is one of the two families of iptables.
type ipFamily struct {
	name   string
	proto  iptables.Protocol
	number byte   // of nf_tables
	tool   string // the command
	legacy string // lists the tables in use of the older iptables
}

func ipFamilies() []ipFamily {
	return []ipFamily{
		{"ip", iptables.ProtocolIPv4, unix.NFPROTO_IPV4, "iptables", "ip_tables_names"},
		{"ip6", iptables.ProtocolIPv6, unix.NFPROTO_IPV6, "ip6tables", "ip6_tables_names"},
	}
}

func ipFamilyOf(a plan.ForwardAccept) (ipFamily, error) {
	for _, f := range ipFamilies() {
		if f.name == a.Family {
			return f, nil
		}
	}
	return ipFamily{}, fmt.Errorf("family %q is none of ip, ip6", a.Family)
}

// acceptRules are the rules of a [plan.ForwardAccept].
func acceptRules(links string) [][]string {
	tail := []string{links, "-m", "comment", "--comment", acceptComment, "-j", "ACCEPT"}
	return [][]string{append([]string{"-i"}, tail...), append([]string{"-o"}, tail...)}
}

// HasAccepts reports whether a chain of the name is one that our rules may be in.
func HasAccepts(chain string) bool { return chain == dockerUser || chain == forwardChain }

// NeededAccepts are the accepts without which another tool drops what bridges
// forward: one for each family whose FORWARD chain of iptables drops what no rule accepts. They are for bridges that
// vethloom named; one with a name of its own needs another.
func (h *Host) NeededAccepts(ctx context.Context) ([]plan.ForwardAccept, error) {
	drops, _, err := h.ForeignForward(ctx)
	if err != nil {
		return nil, err
	}
	var out []plan.ForwardAccept
	for _, f := range ipFamilies() {
		chain := f.name + " " + filterTable + " " + forwardChain // "(legacy)" may follow
		if slices.ContainsFunc(drops, func(d string) bool { return d == chain || strings.HasPrefix(d, chain+" ") }) {
			out = append(out, plan.ForwardAccept{Family: f.name, Links: linkname.Bridge + "+"})
		}
	}
	return out, nil
}

// ForeignAccepts finds the accepts that are in place. Where nobody has a
// filter table it asks no further, for asking costs a process or two.
func (h *Host) ForeignAccepts(ctx context.Context) ([]plan.ForwardAccept, error) {
	var out []plan.ForwardAccept
	for _, f := range ipFamilies() {
		variants, err := h.filterVariants(ctx, f)
		if err != nil {
			return nil, err
		}
		there := map[string]int{}
		for _, variant := range variants {
			err := h.withIPTables(f, variant, func(tool *iptables.IPTables) error {
				links, err := accepted(tool)
				for _, l := range links {
					there[l]++
				}
				return err
			})
			if err != nil && !errors.Is(err, plan.ErrUnsupported) {
				return nil, fmt.Errorf("look into the FORWARD chain of %s: %w", f.tool, err)
			}
		}
		for _, l := range slices.Sorted(maps.Keys(there)) {
			if there[l] == len(variants) {
				out = append(out, plan.ForwardAccept{Family: f.name, Links: l})
			}
		}
	}
	return out, nil
}

// ApplyAccept makes or removes the rules in each variant of iptables in use.
func (h *Host) ApplyAccept(ctx context.Context, op plan.Op, a plan.ForwardAccept) error {
	f, err := ipFamilyOf(a)
	if err != nil {
		return err
	}
	variants, err := h.filterVariants(ctx, f)
	if err != nil {
		return err
	}
	act := func(tool *iptables.IPTables) error { return deleteAccepts(tool, a.Links) }
	if op.Verb != plan.Delete {
		act = func(tool *iptables.IPTables) error { return addAccepts(tool, a.Links) }
		if len(variants) == 0 {
			variants = []string{variantDefault}
		}
	}
	for _, variant := range variants {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := h.withIPTables(f, variant, act); err != nil {
			return err
		}
	}
	return nil
}

// NoNftables reports whether an error says that the kernel has no nf_tables.
func NoNftables(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EAFNOSUPPORT) ||
		errors.Is(err, plan.ErrUnsupported)
}

// filterVariants tells which kinds of iptables have a filter table with a
// FORWARD chain in the fabric's namespace.
func (h *Host) filterVariants(ctx context.Context, f ipFamily) ([]string, error) {
	var out []string
	found, err := h.rules.ForeignChain(ctx, f.number, filterTable, forwardChain)
	if err != nil && !NoNftables(err) {
		return nil, fmt.Errorf("look for another tool's chains: %w", err)
	}
	if found {
		out = append(out, variantNft)
	}
	err = netns.Enter(h.fd, func() error {
		names, err := os.ReadFile("/proc/thread-self/net/" + f.legacy)
		if slices.Contains(strings.Fields(string(names)), filterTable) {
			out = append(out, variantLegacy)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the module is not there
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for tables of %s: %w", f.tool, err)
	}
	return out, nil
}

// withIPTables calls act in the fabric's namespace with a variant of iptables.
func (h *Host) withIPTables(f ipFamily, variant string, act func(*iptables.IPTables) error) error {
	name := f.tool
	if variant != variantDefault {
		if path, err := exec.LookPath(name + "-" + variant); err == nil {
			name = path
		}
	}
	return netns.Enter(h.fd, func() error {
		tool, err := iptables.New(iptables.IPFamily(f.proto), iptables.Timeout(iptablesWait), iptables.Path(name))
		if errors.Is(err, exec.ErrNotFound) {
			return fmt.Errorf("%w: install %s, or accept links vlb-* in the firewall that drops them",
				plan.ErrUnsupported, name)
		}
		if err != nil {
			return fmt.Errorf("run %s: %w", name, err)
		}
		return act(tool)
	})
}

// accepted are the links whose both rules are in one of the chains they may be in.
func accepted(tool *iptables.IPTables) ([]string, error) {
	var out []string
	for _, chain := range []string{dockerUser, forwardChain} {
		if ok, err := tool.ChainExists(filterTable, chain); err != nil {
			return nil, err
		} else if !ok {
			continue
		}
		rules, err := tool.List(filterTable, chain)
		if err != nil {
			return nil, err
		}
		seen := map[string]int{}
		for _, rule := range rules { // -A FORWARD -i vlb-+ -m comment --comment vethloom -j ACCEPT
			words := strings.Fields(strings.ReplaceAll(rule, `"`, ""))
			if len(words) < 4 {
				continue
			}
			for _, ours := range acceptRules(words[3]) {
				if slices.Equal(words[2:], ours) {
					seen[words[3]]++
				}
			}
		}
		for _, l := range slices.Sorted(maps.Keys(seen)) {
			if seen[l] >= 2 && !slices.Contains(out, l) {
				out = append(out, l)
			}
		}
	}
	return out, nil
}

// addAccepts adds the rules behind those of the administrator, who may have forbidden what would be accepted; but
// before a last rule that is about every packet.
func addAccepts(tool *iptables.IPTables, links string) error {
	chain := dockerUser
	if ok, err := tool.ChainExists(filterTable, chain); err != nil {
		return err
	} else if !ok {
		chain = forwardChain
	}
	for _, rule := range acceptRules(links) {
		if ok, err := tool.Exists(filterTable, chain, rule...); err != nil {
			return fmt.Errorf("look into chain %s: %w", chain, err)
		} else if ok {
			continue
		}
		rules, err := tool.List(filterTable, chain)
		if err != nil {
			return fmt.Errorf("list chain %s: %w", chain, err)
		}
		at := len(rules) // the first line is the chain itself, so this is one behind the last rule
		if at > 1 && everything.MatchString(rules[at-1]) {
			at--
		}
		if err := tool.Insert(filterTable, chain, at, rule...); err != nil {
			return fmt.Errorf("insert into chain %s: %w", chain, err)
		}
	}
	return nil
}

// everything matches a rule, as iptables lists it, that ends the chain for every packet.
var everything = regexp.MustCompile(`^-A \S+( -m comment --comment ("[^"]*"|\S+))? -j (DROP|REJECT|RETURN|ACCEPT)\b`)

func deleteAccepts(tool *iptables.IPTables, links string) error {
	for _, chain := range []string{dockerUser, forwardChain} {
		if ok, err := tool.ChainExists(filterTable, chain); err != nil {
			return err
		} else if !ok {
			continue
		}
		for _, rule := range acceptRules(links) {
			if err := tool.DeleteIfExists(filterTable, chain, rule...); err != nil {
				return fmt.Errorf("delete from chain %s: %w", chain, err)
			}
		}
	}
	return nil
}
