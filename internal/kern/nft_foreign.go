package kern

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/plan"
)

// What another tool's filter table is made of, and how our rules look in it.
const (
	filterTable    = "filter"
	forwardChain   = "FORWARD"
	dockerUser     = "DOCKER-USER"
	acceptComment  = "vethloom"
	acceptedLinks  = "vlb-+" // iptables writes the rest of a name so
	iptablesWait   = 5       // seconds for the lock that its users share
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

func ipFamilyOf(a plan.ForeignAccept) (ipFamily, error) {
	for _, f := range ipFamilies() {
		if f.name == a.Family {
			return f, nil
		}
	}
	return ipFamily{}, fmt.Errorf("family %q is none of ip, ip6", a.Family)
}

// acceptRules are the rules of a [plan.ForeignAccept].
func acceptRules() [][]string {
	tail := []string{acceptedLinks, "-m", "comment", "--comment", acceptComment, "-j", "ACCEPT"}
	return [][]string{append([]string{"-i"}, tail...), append([]string{"-o"}, tail...)}
}

// NeededAccepts are the accepts without which another tool drops what bridges
// forward: one for each family whose FORWARD chain of iptables has the policy DROP.
func (k *Kernel) NeededAccepts(ctx context.Context) ([]plan.ForeignAccept, error) {
	drops, _, err := k.ForeignForward(ctx)
	if err != nil {
		return nil, err
	}
	var out []plan.ForeignAccept
	for _, f := range ipFamilies() {
		chain := f.name + " " + filterTable + " " + forwardChain // "(legacy)" may follow
		if slices.ContainsFunc(drops, func(d string) bool { return d == chain || strings.HasPrefix(d, chain+" ") }) {
			out = append(out, plan.ForeignAccept{Family: f.name})
		}
	}
	return out, nil
}

// foreignAccepts finds the accepts that are in place. Where nobody has a
// filter table it asks no further, for asking costs a process or two.
func (k *Kernel) foreignAccepts(ctx context.Context) ([]plan.ForeignAccept, error) {
	var out []plan.ForeignAccept
	for _, f := range ipFamilies() {
		variants, err := k.filterVariants(ctx, f)
		if err != nil {
			return nil, err
		}
		there := 0
		for _, variant := range variants {
			err := k.withIPTables(f, variant, func(tool *iptables.IPTables) error {
				ok, err := hasAccepts(tool)
				if ok {
					there++
				}
				return err
			})
			if err != nil && !errors.Is(err, plan.ErrUnsupported) {
				return nil, fmt.Errorf("look into the FORWARD chain of %s: %w", f.tool, err)
			}
		}
		if there > 0 && there == len(variants) {
			out = append(out, plan.ForeignAccept{Family: f.name})
		}
	}
	return out, nil
}

// applyAccept makes or removes the rules in each variant of iptables in use.
func (k *Kernel) applyAccept(ctx context.Context, op plan.Op, a plan.ForeignAccept) error {
	f, err := ipFamilyOf(a)
	if err != nil {
		return err
	}
	variants, err := k.filterVariants(ctx, f)
	if err != nil {
		return err
	}
	act := deleteAccepts
	if op.Verb != plan.Delete {
		act = addAccepts
		if len(variants) == 0 {
			variants = []string{variantDefault}
		}
	}
	for _, variant := range variants {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := k.withIPTables(f, variant, act); err != nil {
			return err
		}
	}
	return nil
}

// filterVariants tells which kinds of iptables have a filter table with a
// FORWARD chain in the fabric's namespace.
func (k *Kernel) filterVariants(ctx context.Context, f ipFamily) ([]string, error) {
	var out []string
	found, err := k.rules.foreignForward(ctx, f.number)
	if err != nil {
		return nil, fmt.Errorf("look for another tool's chains: %w", err)
	}
	if found {
		out = append(out, variantNft)
	}
	err = inNetNS(k.fd(), func() error {
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

// foreignForward reports whether nf_tables has the table and chain that the newer iptables
// makes in a family.
func (r *rules) foreignForward(ctx context.Context, family byte) (found bool, err error) {
	r.reading.Lock()
	defer r.reading.Unlock()
	for range reads {
		found = false
		err = r.reader.request(ctx, unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP, family, func(*wire) {}, func(m nlMessage) {
			c, table := decodeChain("", m.payload())
			found = found || table == filterTable && c.Name == forwardChain && m.family() == family
		})
		if !errors.Is(err, errInterrupted) {
			break
		}
	}
	return found, err
}

// withIPTables calls act in the fabric's namespace with a variant of iptables.
func (k *Kernel) withIPTables(f ipFamily, variant string, act func(*iptables.IPTables) error) error {
	name := f.tool
	if variant != variantDefault {
		if path, err := exec.LookPath(name + "-" + variant); err == nil {
			name = path
		}
	}
	return inNetNS(k.fd(), func() error {
		tool, err := iptables.New(iptables.IPFamily(f.proto), iptables.Timeout(iptablesWait), iptables.Path(name))
		if errors.Is(err, exec.ErrNotFound) {
			return fmt.Errorf("%w: install %s, or accept links vlb-* in the firewall that drops them", plan.ErrUnsupported, name)
		}
		if err != nil {
			return fmt.Errorf("run %s: %w", name, err)
		}
		return act(tool)
	})
}

// hasAccepts reports whether both rules are in one of the chains they may be in.
func hasAccepts(tool *iptables.IPTables) (bool, error) {
	for _, chain := range []string{dockerUser, forwardChain} {
		if ok, err := tool.ChainExists(filterTable, chain); err != nil {
			return false, err
		} else if !ok {
			continue
		}
		there := 0
		for _, rule := range acceptRules() {
			ok, err := tool.Exists(filterTable, chain, rule...)
			if err != nil {
				return false, err
			}
			if ok {
				there++
			}
		}
		if there == len(acceptRules()) {
			return true, nil
		}
	}
	return false, nil
}

func addAccepts(tool *iptables.IPTables) error {
	chain := dockerUser
	if ok, err := tool.ChainExists(filterTable, chain); err != nil {
		return err
	} else if !ok {
		chain = forwardChain
	}
	for _, rule := range acceptRules() {
		if err := tool.InsertUnique(filterTable, chain, 1, rule...); err != nil {
			return fmt.Errorf("insert into chain %s: %w", chain, err)
		}
	}
	return nil
}

func deleteAccepts(tool *iptables.IPTables) error {
	for _, chain := range []string{dockerUser, forwardChain} {
		if ok, err := tool.ChainExists(filterTable, chain); err != nil {
			return err
		} else if !ok {
			continue
		}
		for _, rule := range acceptRules() {
			if err := tool.DeleteIfExists(filterTable, chain, rule...); err != nil {
				return fmt.Errorf("delete from chain %s: %w", chain, err)
			}
		}
	}
	return nil
}
