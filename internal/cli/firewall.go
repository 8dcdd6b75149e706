package cli

import (
	"context"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/show"
)

// firewallView is where rules are, and where an administrator's own belong.
type firewallView struct {
	Firewall  string
	Look      []string // commands that show netd's rules
	Place     string   // where the administrator's belong
	Accepts   string   // what an accept there means
	Forwarded advice   // about what containers send and get
	Published advice   // about who may use a published port
	Networks  []firewallNetwork
}

// advice is what rules of one kind see, and an example of them.
type advice struct {
	Sees    string
	Example []string
}

type firewallNetwork struct {
	Name, Link string
	Subnets    []string
}

func (a nodes) firewall() *cobra.Command {
	var i show.Inspector
	cmd := &cobra.Command{
		Use: "firewall [flags]", Short: "Show where the firewall's rules are, and where to put your own",
		GroupID: groupNode, Args: cobra.NoArgs,
		Long: `Show what has netd's firewall rules, how to look at them, and where your own rules belong: they come
first, and what they drop is gone. Each network is shown with the link that rules know it by, and each kind of rules
with what it sees of a packet.`,
		Example: "  net firewall\n  net firewall -f '{{range .Networks}}{{.Link}} {{end}}'",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
			s, err := c.System.Status(ctx, &apiv1.StatusRequest{})
			if err != nil {
				return client.Explain(err)
			}
			list, err := c.Networks.List(ctx, &apiv1.ListNetworksRequest{})
			if err != nil {
				return client.Explain(err)
			}
			v := viewFirewall(s.GetFirewall(), list.GetNetworks())
			if i.Format != "" {
				return i.Write(a.Out, []any{v})
			}
			return a.showFirewall(v)
		}),
	}
	i.Flags(cmd)
	return cmd
}

func viewFirewall(firewall string, networks []*apiv1.Network) firewallView {
	v := firewallView{Firewall: firewall, Networks: []firewallNetwork{}}
	bridge, builtin := "vlb-3f2a91bc", true // an example, where there is none
	for _, n := range networks {
		if n.GetLink() == "" {
			continue
		}
		f := firewallNetwork{Name: n.GetName(), Link: n.GetLink()}
		for _, p := range n.GetPools() {
			f.Subnets = append(f.Subnets, p.GetSubnet())
		}
		v.Networks = append(v.Networks, f)
		if builtin && plainLink(n.GetLink()) {
			bridge, builtin = n.GetLink(), n.GetBuiltin()
		}
	}
	if strings.HasPrefix(firewall, "iptables") {
		return inIptables(v, bridge)
	}
	return inNftables(v, bridge)
}

// plainLink reports whether a name means itself in a shell.
func plainLink(name string) bool {
	return strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") == "" &&
		!strings.HasPrefix(name, "-")
}

func inNftables(v firewallView, bridge string) firewallView {
	v.Look = []string{"nft list table inet vethloom", "nft list table bridge vethloom"}
	v.Place = "a table of your own, in a chain that is earlier than netd's"
	v.Accepts = "goes on to netd's rules"
	v.Forwarded = advice{
		"the container's address, and the container's port where one is published",
		[]string{
			"nft add table inet mine",
			"nft add chain inet mine forward '{ type filter hook forward priority -10; policy accept; }'",
			`nft add rule inet mine forward iifname "` + bridge + `" ip daddr 10.0.0.0/8 drop`,
		},
	}
	v.Published = advice{
		"the client's address, and the host's address and port that it asked for",
		[]string{
			"nft add table inet mine",
			"nft add chain inet mine published '{ type filter hook prerouting priority -150; policy accept; }'",
			"nft add rule inet mine published fib daddr type local tcp dport 8080 ip saddr != 192.0.2.0/24 drop",
		},
	}
	return v
}

func inIptables(v firewallView, bridge string) firewallView {
	tool := "iptables"
	if strings.Contains(v.Firewall, "legacy") {
		tool = "iptables-legacy"
	}
	v.Look = []string{tool + "-save", "ip6" + strings.TrimPrefix(tool, "ip") + "-save", "ebtables -t nat -L"}
	v.Place = "the chain VETHLOOM-USER of the table filter, for IPv4 and IPv6"
	v.Accepts = "does not go through netd's rules"
	v.Forwarded = advice{
		"the container's address, and the container's port where one is published",
		[]string{tool + " -A VETHLOOM-USER -i " + bridge + " -d 10.0.0.0/8 -j DROP"},
	}
	v.Published = advice{
		"the client's address, and by conntrack the port that it asked for",
		[]string{tool + " -A VETHLOOM-USER -p tcp -m conntrack --ctdir ORIGINAL --ctorigdstport 8080 " +
			"! -s 192.0.2.0/24 -j DROP"},
	}
	return v
}

func (a nodes) showFirewall(v firewallView) error {
	tw := tabwriter.NewWriter(a.Out, 0, 1, 2, ' ', 0)
	line := func(key, text string) { _, _ = show.Printf(tw, "%s\t%s\n", show.Painted(key), text) }
	line("Firewall:", v.Firewall)
	line("Look:", strings.Join(v.Look, "; "))
	line("Your rules:", v.Place)
	line("", "what they drop is gone; what they accept "+v.Accepts)
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, part := range []struct {
		about string
		advice
	}{{"What containers send and get", v.Forwarded}, {"Who may use a published port", v.Published}} {
		show.Printf(a.Out, "\n%s; rules see %s:\n", part.about, part.Sees)
		for _, command := range part.Example {
			show.Printf(a.Out, "  %s\n", command)
		}
	}
	if len(v.Networks) == 0 {
		return nil
	}
	show.Printf(a.Out, "\n")
	show.Printf(tw, "NETWORK\tLINK\tSUBNETS\n")
	for _, n := range v.Networks {
		show.Printf(tw, "%s\t%s\t%s\n", n.Name, n.Link, strings.Join(n.Subnets, ", "))
	}
	return tw.Flush()
}
