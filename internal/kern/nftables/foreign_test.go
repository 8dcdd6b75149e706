package nftables

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestForeignLinks finds the links that rules of others are about, in every way to say which, and none that is named
// where nothing is forwarded or where all that can happen is to be let through.
func TestForeignLinks(t *testing.T) {
	r, env := openTestRules(t)
	mustApply(t, r, creation(firewall(t))...) // names bridges of ours itself
	env.Sh("ip link add vlb-1 type bridge; ip link add vlb-2 type bridge")
	t.Cleanup(func() { env.Sh("ip link del vlb-1; ip link del vlb-2") })
	byIndex := func(i uint32) string {
		return strings.TrimSpace(env.Sh(fmt.Sprintf("ip -o link | sed -n 's/^%d: \\([^:@]*\\).*/\\1/p'", i)))
	}
	forward := "nft add table inet their; nft add chain inet their f '{ type filter hook forward priority 0; }'; "
	for name, c := range map[string]struct {
		script string
		want   []string
	}{
		"nobody":      {"true", nil},
		"about none":  {forward + "nft add rule inet their f ip daddr 192.0.2.1 drop", nil},
		"by name":     {forward + "nft add rule inet their f iifname vlb-1 tcp dport 25 drop", []string{"vlb-1"}},
		"by prefix":   {forward + "nft add rule inet their f oifname 'vlb-*' counter", []string{"vlb-*"}},
		"by index":    {forward + "nft add rule inet their f iif vlb-2 log", []string{"vlb-2"}},
		"not it":      {forward + "nft add rule inet their f iifname != vlb-1 drop", []string{"vlb-1"}},
		"only let in": {forward + "nft add rule inet their f iifname vlb-1 tcp dport 80 accept", nil},
		"in a set": {forward + "nft add rule inet their f oifname '{ vlb-1, eth0 }' drop",
			[]string{"eth0*", "vlb-1*"}},
		"by indexes in a set": {forward + "nft add rule inet their f iif '{ vlb-1, vlb-2 }' drop",
			[]string{"vlb-1", "vlb-2"}},
		"two in a key": {forward + "nft add rule inet their f iifname . oifname '{ eth0 . vlb-1 }' drop",
			[]string{"eth0*", "vlb-1*"}},
		"a prefix in a key": {forward + "nft add set inet their s " +
			"'{ type ifname . ipv4_addr; flags interval; elements = { \"vlb-*\" . 10.0.0.0/8 }; }'; " +
			"nft add rule inet their f iifname . ip saddr @s drop", []string{"vlb-*"}},
		"by name to an object": {forward + "nft add quota inet their q over 1 mbytes; " +
			"nft add rule inet their f quota name iifname map '{ vlb-1 : q }' drop", []string{"vlb-1*"}},
		"let in with a mark": {forward + "nft add rule inet their f iifname vlb-1 meta mark set 1 accept",
			[]string{"vlb-1"}},
		"let in to a proxy": {"nft add table inet their; " +
			"nft add chain inet their p '{ type filter hook prerouting priority 0; }'; " +
			"nft add rule inet their p iifname vlb-1 tcp dport 80 tproxy ip to :8080 accept", []string{"vlb-1"}},
		"let in and logged":  {forward + "nft add rule inet their f iifname vlb-1 log accept", []string{"vlb-1"}},
		"let in and counted": {forward + "nft add rule inet their f iifname vlb-1 counter accept", nil},
		"a bridge itself": {"nft add table bridge their; " +
			"nft add chain bridge their i '{ type filter hook input priority 0; }'; " +
			"nft add rule bridge their i iifname vlb-2 drop", []string{"vlb-2"}},
		"all of bridges": {"nft add table bridge their; " +
			"nft add chain bridge their f '{ type filter hook forward priority 0; policy drop; }'; " +
			"nft add rule bridge their f iifname vlb-1 accept", []string{"*"}},
		"at a device for all families": {"nft add table inet their; " +
			"nft add chain inet their i '{ type filter hook ingress device vlb-2 priority 0; }'", []string{"vlb-2"}},
		"in a named set": {forward + "nft add set inet their s '{ type ifname; elements = { vlb-2 }; }'; " +
			"nft add rule inet their f iifname @s drop", []string{"vlb-2*"}},
		"as a part of a key": {forward + "nft add rule inet their f ip saddr . iifname '{ 10.0.0.1 . vlb-1 }' drop",
			[]string{"vlb-1*"}},
		"in a verdict map": {forward + "nft add chain inet their g; " +
			"nft add rule inet their f iifname vmap '{ vlb-1 : jump g }'", []string{"vlb-1*"}},
		"in another chain": {forward + "nft add chain inet their g; nft add rule inet their g oifname vlb-2 drop",
			[]string{"vlb-2"}},
		"of the host itself": {"nft add table ip their; " +
			"nft add chain ip their i '{ type filter hook input priority 0; }'; " +
			"nft add rule ip their i iifname vlb-1 drop", nil},
		"of bridges": {"nft add table bridge their; " +
			"nft add chain bridge their f '{ type filter hook forward priority 0; }'; " +
			"nft add rule bridge their f oifname vlb-1 ether type arp drop", []string{"vlb-1"}},
		"at a device": {"nft add table netdev their; " +
			"nft add chain netdev their i '{ type filter hook ingress device vlb-2 priority 0; }'", []string{"vlb-2"}},
		"iptables":        {"iptables -A FORWARD -i vlb-1 -p tcp --dport 25 -j DROP", []string{"vlb-1"}},
		"iptables' plus":  {"ip6tables -A FORWARD -o vlb-+ -j REJECT", []string{"vlb-*"}},
		"our own chain":   {"iptables -N VETHLOOM-1; iptables -A VETHLOOM-1 -i vlb-1 -j DROP", nil},
		"our own accepts": {"iptables -A FORWARD -i vlb-+ -m comment --comment vethloom -j ACCEPT", nil},
	} {
		t.Run(name, func(t *testing.T) {
			env.Sh(c.script)
			defer env.Sh("nft list tables | grep -v vethloom | while read -r t; do nft delete $t; done")
			links, err := r.ForeignLinks(t.Context(), func(chain string) bool { return chain == "VETHLOOM-1" })
			if err != nil {
				t.Fatal(err)
			}
			if got := links.Names(byIndex); !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if got := links.Devices(); strings.HasPrefix(name, "at a device") != slices.Equal(got, []string{"vlb-2"}) {
				t.Errorf("chains are at %q", got)
			}
		})
	}
}
