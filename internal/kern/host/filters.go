package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/vethloom/vethloom/internal/kern/netns"
	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
	"github.com/vethloom/vethloom/internal/linkname"
)

// FilteredLinks are the names of links that firewall rules of others are about, on the way of what is forwarded: of
// nftables, of iptables, and of the older one. They are sorted; a star at the end stands for anything. Ours tells which
// chains of iptables are not others'. Devices are those of the links that chains are at.
func (h *Host) FilteredLinks(ctx context.Context, ours func(chain string) bool) (out, devices []string, err error) {
	named, err := h.rules.ForeignLinks(ctx, ours)
	if err != nil && !NoNftables(err) {
		return nil, nil, fmt.Errorf("look for links in the rules of others: %w", err)
	}
	var links map[uint32]string
	out = named.Names(func(i uint32) string {
		if links == nil {
			links, err = h.linkNames(ctx)
		}
		return links[i]
	})
	if err != nil && !NoNftables(err) {
		return nil, nil, err
	}
	legacy, err := h.legacyRules(ctx, filterTable, "raw", "mangle", "nat", "security")
	if err != nil {
		return nil, nil, err
	}
	for _, rules := range legacy {
		out = append(out, linksIn(rules, ours)...)
	}
	controlled, filtered, err := h.controlledLinks(ctx)
	if err != nil {
		return nil, nil, err
	}
	out, devices = append(out, controlled...), append(named.Devices(), filtered...)
	slices.Sort(out)
	slices.Sort(devices)
	return slices.Compact(out), slices.Compact(devices), nil
}

// controlledLinks are the links that others control the traffic of (tc): those of ours with queues, any with filters.
// What a program hands to a container passes neither, and programs by tcx go before filters.
func (h *Host) controlledLinks(ctx context.Context) (all, filtered []string, err error) {
	c, err := rtnetlink.Dial(h.fd)
	if err != nil {
		return nil, nil, err
	}
	queues, filters, err := c.Strangers()
	if err = errors.Join(err, c.Close()); err != nil {
		return nil, nil, fmt.Errorf("look for traffic control of others: %w", err)
	}
	if len(queues)+len(filters) == 0 {
		return nil, nil, nil
	}
	links, err := h.linkNames(ctx)
	for i, name := range links {
		if filters[i] {
			filtered = append(filtered, name)
		}
		if filters[i] || queues[i] && needsNoQueue(name) {
			all = append(all, name)
		}
	}
	return all, filtered, err
}

// needsNoQueue reports whether a link of ours has no queue unless somebody gives it one: TUN links and IFBs have some.
func needsNoQueue(name string) bool {
	return slices.ContainsFunc([]string{linkname.Veth, linkname.Bridge, linkname.VXLAN, linkname.VXLAN6},
		func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// linkNames are the names of the host's links by their indexes.
func (h *Host) linkNames(ctx context.Context) (map[uint32]string, error) {
	v, err := h.readHost(ctx, false)
	if err != nil {
		return nil, fmt.Errorf("look up the names of links: %w", err)
	}
	out := make(map[uint32]string, len(v.links))
	for i, l := range v.links {
		out[i] = l.Name
	}
	return out, nil
}

// linksIn are the links that rules of iptables are about, as iptables -S lists them: but those that only accept, and
// those of chains for the host itself.
func linksIn(rules string, ours func(chain string) bool) (out []string) {
	for line := range strings.Lines(rules) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "-A" || words[1] == "INPUT" || words[1] == "OUTPUT" ||
			ours(words[1]) || words[len(words)-2] == "-j" && words[len(words)-1] == "ACCEPT" {
			continue
		}
		for i, w := range words[:len(words)-1] {
			if w == "-i" || w == "-o" {
				name, prefix := strings.CutSuffix(words[i+1], "+")
				if prefix {
					name += "*"
				}
				out = append(out, name)
			}
		}
	}
	return out
}

// legacyRules are the rules of tables of the older iptables, by the family, which nftables does not show. A table that
// was never used is not asked for: asking would make it.
func (h *Host) legacyRules(ctx context.Context, tables ...string) (map[string]string, error) {
	out := map[string]string{}
	err := netns.Enter(h.fd, func() error {
		for _, f := range ipFamilies() {
			names, err := os.ReadFile("/proc/thread-self/net/" + f.legacy)
			if err != nil {
				continue // without the module there is no such file
			}
			used := strings.Fields(string(names))
			for _, table := range tables {
				if !slices.Contains(used, table) {
					continue
				}
				tool := f.tool + "-" + variantLegacy
				wait := strconv.Itoa(iptablesWait)
				rules, err := exec.CommandContext(ctx, tool, "-w", wait, "-t", table, "-S").Output()
				if errors.Is(err, exec.ErrNotFound) {
					break
				}
				if err != nil {
					return fmt.Errorf("%s -t %s -S: %w", tool, table, err)
				}
				out[f.name] += string(rules)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look at iptables: %w", err)
	}
	return out, nil
}
