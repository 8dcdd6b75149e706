package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	nft "github.com/google/nftables"

	"github.com/vethloom/vethloom/internal/kern/netns"
	"github.com/vethloom/vethloom/internal/kern/nftables"
	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
	"github.com/vethloom/vethloom/plan"
)

// Host is what a network namespace has that is not ours.
type Host struct {
	fd    int
	ipv6  bool // whether the kernel has IPv6 at all
	rules *nftables.Rules
}

// Open looks at the namespace fd refers to, with the rules there.
func Open(fd int, ipv6 bool, rules *nftables.Rules) *Host {
	return &Host{fd: fd, ipv6: ipv6, rules: rules}
}

// IPv6Host reports whether the kernel has no IPv6, and which links of the
// fabric's namespace take the host's own IPv6 configuration from router
// advertisements but would not once they forward: those whose accept_ra is 1 and
// whose forwarding is 0 (kernel ip-sysctl).
func (h *Host) IPv6Host(ctx context.Context) (none bool, accepting []string, err error) {
	if !h.ipv6 {
		return true, nil, nil
	}
	err = netns.Enter(h.fd, func() error {
		dirs, err := filepath.Glob("/proc/sys/net/ipv6/conf/*")
		if err != nil {
			return err
		}
		for _, dir := range dirs {
			name := filepath.Base(dir)
			if name == "all" || name == "default" || name == "lo" || strings.HasPrefix(name, "vl") {
				continue
			}
			ra, err := readFlag(dir, "accept_ra")
			if err != nil {
				return err
			}
			forwards, err := readFlag(dir, "forwarding")
			if err != nil {
				return err
			}
			if ra == "1" && forwards == "0" {
				accepting = append(accepting, name)
			}
		}
		return ctx.Err()
	})
	if err != nil {
		return false, nil, fmt.Errorf("read accept_ra: %w", err)
	}
	return false, accepting, nil
}

// outward are the kinds of links that a router of the host's may be behind; "" is a device.
var outward = []plan.LinkKind{"", plan.Veth, "vlan", "bond", "team", "macvlan"}

// OwnLinks are the names of the links that carry a mark of ours.
func (h *Host) OwnLinks(ctx context.Context) ([]string, error) {
	v, err := h.readHost(ctx, true)
	if err != nil {
		return nil, fmt.Errorf("look for our own links: %w", err)
	}
	var own []string
	for _, l := range v.links {
		if _, _, ours := l.Owner(); ours {
			own = append(own, l.Name)
		}
	}
	return own, nil
}

// DeafLinks are the links of others by which the host could get its IPv6 addresses from a router's advertisements, and
// does not since it forwards: they are up, have no address but their own, and accept_ra is 1. A link that came after
// forwarding was switched on is one: see IPv6Host.
func (h *Host) DeafLinks(ctx context.Context) ([]string, error) {
	if !h.ipv6 {
		return nil, nil
	}
	v, err := h.readHost(ctx, true)
	if err != nil {
		return nil, fmt.Errorf("look for links that hear no router: %w", err)
	}
	var deaf []string
	for _, l := range v.links {
		_, _, ours := l.Owner()
		if ours || !l.Up || l.MasterIndex != 0 || l.Name == "lo" || !slices.Contains(outward, l.Kind) {
			continue
		}
		if !slices.ContainsFunc(v.addrs, func(a rtnetlink.Address) bool {
			return a.Index == l.Index && a.Prefix.Addr().Is6() && a.Prefix.Addr().IsGlobalUnicast()
		}) {
			deaf = append(deaf, l.Name)
		}
	}
	slices.Sort(deaf)
	err = netns.Enter(h.fd, func() error {
		deaf = slices.DeleteFunc(deaf, func(name string) bool {
			dir := "/proc/sys/net/ipv6/conf/" + name
			ra, _ := readFlag(dir, "accept_ra")
			forwards, _ := readFlag(dir, "forwarding")
			return ra != "1" || forwards != "1"
		})
		return nil
	})
	return deaf, err
}

// readFlag reads a sysctl of a link, or "" when the link has just gone.
func readFlag(dir, name string) (string, error) {
	v, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(v)), err
}

// HasBridgeNetfilter reports whether br_netfilter is there, so that frames on bridges can be
// made to run through the IP firewall (bridge-nf-call-iptables).
func (h *Host) HasBridgeNetfilter(context.Context) (has bool, err error) {
	err = netns.Enter(h.fd, func() error {
		_, err := os.Stat("/proc/sys/net/bridge/bridge-nf-call-iptables")
		has = err == nil
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return false, fmt.Errorf("look for br_netfilter: %w", err)
	}
	return has, nil
}

// ForeignFirewall reports whether anybody but vethloom has a firewall table in the fabric's
// namespace: nf_tables or, where the kernel still has them, legacy iptables ones.
func (h *Host) ForeignFirewall(ctx context.Context) (bool, error) {
	c, err := nft.New(nft.WithNetNSFd(h.fd))
	if err != nil {
		return false, fmt.Errorf("open nf_tables: %w", err)
	}
	tables, err := c.ListTables()
	if err != nil {
		return false, fmt.Errorf("list nf_tables tables: %w", err)
	}
	for _, t := range tables {
		if t.Name != plan.Table {
			return true, ctx.Err()
		}
	}
	return h.LegacyTables()
}

// LegacyTables reports whether the older iptables has tables in the fabric's namespace.
func (h *Host) LegacyTables() (has bool, err error) {
	err = netns.Enter(h.fd, func() error {
		for _, file := range []string{"ip_tables_names", "ip6_tables_names"} {
			names, err := os.ReadFile("/proc/thread-self/net/" + file)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			has = has || len(strings.TrimSpace(string(names))) > 0
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("look for iptables tables: %w", err)
	}
	return has, nil
}
