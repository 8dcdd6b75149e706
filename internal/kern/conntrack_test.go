package kern_test

import (
	"context"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// flowsTo lists the destinations of the tracked flows.
func flowsTo(env *kerntest.Env) string {
	var out []string
	for line := range strings.Lines(env.Sh("conntrack -L 2>/dev/null; conntrack -L -f ipv6 2>/dev/null")) {
		var dst, port string
		for _, f := range strings.Fields(line) {
			if v, ok := strings.CutPrefix(f, "dst="); ok && dst == "" {
				dst = v
			}
			if v, ok := strings.CutPrefix(f, "dport="); ok && port == "" {
				port = v
			}
		}
		out = append(out, dst+":"+port)
	}
	return strings.Join(out, " ")
}

func TestPurge(t *testing.T) {
	entry := func(extra string) string {
		return "conntrack -I -p udp --timeout 600 --sport 999 " + extra + ";"
	}
	const (
		local = "-s 192.0.2.9 -d 192.0.2.1 --dport 53 -r 192.0.2.1 -q 192.0.2.9 --reply-port-src 53 " +
			"--reply-port-dst 999"
		there = "-s 192.0.2.9 -d 198.51.100.1 --dport 53 -r 198.51.100.1 -q 192.0.2.9 --reply-port-src 53 " +
			"--reply-port-dst 999"
		led = "-s 192.0.2.8 -d 192.0.2.1 --dport 53 -r 10.1.0.2 -q 192.0.2.8 --reply-port-src 5353 " +
			"--reply-port-dst 999"
		other = "-s 192.0.2.9 -d 192.0.2.1 --dport 54 -r 192.0.2.1 -q 192.0.2.9 --reply-port-src 54 " +
			"--reply-port-dst 999"
		six = "-s 2001:db8::9 -d 2001:db8::1 --dport 53 -r 2001:db8::1 -q 2001:db8::9 --reply-port-src 53 " +
			"--reply-port-dst 999"
		address = "192.0.2.1:53 "
	)
	for _, c := range []struct {
		name       string
		flow       plan.ConntrackFlush
		left, gone []string
	}{
		{"whatever goes to the port", plan.ConntrackFlush{Proto: plan.UDP, Dst: "0.0.0.0/0:53"},
			[]string{"198.51.100.1:53", "192.0.2.1:54", "2001:db8::1:53"}, []string{"192.0.2.1:53"}},
		{"but not what is led there already", plan.ConntrackFlush{Proto: plan.UDP, Dst: "0.0.0.0/0:50-53",
			Keep: "10.1.0.2:5353"},
			[]string{"192.0.2.1:53", "192.0.2.1:54"}, nil},
		{"a range of one address", plan.ConntrackFlush{Proto: plan.UDP, Dst: "192.0.2.1:50-60"},
			[]string{"198.51.100.1:53"}, []string{"192.0.2.1:53", "192.0.2.1:54"}},
		{"some sources", plan.ConntrackFlush{Proto: plan.UDP, Dst: "0.0.0.0/0:50-53", From: "192.0.2.8/31"},
			[]string{"192.0.2.1:54"}, []string{"192.0.2.1:53"}},
		{"other sources", plan.ConntrackFlush{Proto: plan.UDP, Dst: "0.0.0.0/0:50-60", From: "192.0.2.7"},
			[]string{"192.0.2.1:53", "192.0.2.1:54"}, nil},
		{"another protocol", plan.ConntrackFlush{Proto: plan.TCP, Dst: "0.0.0.0/0:53"},
			[]string{"192.0.2.1:53", "192.0.2.1:54"}, nil},
		{"IPv6", plan.ConntrackFlush{Proto: plan.UDP, Dst: "[2001:db8::1]:53"}, []string{"192.0.2.1:53"},
			[]string{"2001:db8::1:53"}},
		{"an endpoint", plan.ConntrackFlush{Addr: "10.1.0.2"}, []string{"192.0.2.1:53", "192.0.2.1:54",
			"198.51.100.1:53"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			env := kerntest.New(t)
			k, err := kern.Open(kern.Config{RunDir: env.RunDir})
			if err != nil {
				t.Fatal(err)
			}
			env.Sh("ip addr add 192.0.2.1/24 dev lo; nft add table ip track; nft add chain ip track c '{ type " +
				"filter hook output priority 0; }'; nft add rule ip track c ct state new accept")
			env.Sh(entry(local) + entry(there) + entry(led) + entry(other) + entry(six))
			before := strings.Count(flowsTo(env), address)
			if err := k.Apply(context.Background(), []plan.Op{{Verb: plan.Purge, Object: c.flow}}); err != nil {
				t.Fatal(err)
			}
			if err := k.Close(); err != nil { // waits for the walk
				t.Fatal(err)
			}
			after := flowsTo(env)
			for _, f := range c.left {
				if !strings.Contains(after+" ", f+" ") {
					t.Errorf("%s has gone; left: %s", f, after)
				}
			}
			for _, f := range c.gone {
				if strings.Contains(after+" ", f+" ") {
					t.Errorf("%s is left: %s", f, after)
				}
			}
			if want := before - 1; (c.flow.Keep != "" || c.flow.Addr != "") &&
				strings.Count(after+" ", address) != want {
				t.Errorf("%d flows to the port, want %d: %s", strings.Count(after+" ", address), want, after)
			}
		})
	}
}
