package lab

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// FaultCommand is a fault by the name that netlab fault and the labs call it.
type FaultCommand struct {
	Name, Args, Short string
}

// FaultCommands are all faults, and what undoes them.
func FaultCommands() []FaultCommand {
	return []FaultCommand{
		{"stop", "HOST", "Stop the daemon of a host: netd of a node, etcd of an etcd member"},
		{"kill", "HOST", "Kill the daemon of a host with SIGKILL; containers stay"},
		{"start", "HOST", "Start the daemon again, and the host first when it is off"},
		{"power-off", "HOST", "Take a host away at once: processes, containers, kernel state; its disk stays"},
		{"cut", "HOST", "Pull the cable of a host"},
		{"heal", "[HOST]", "Put the cable of a host back; without a host undo all faults of the underlay"},
		{"partition", "NODE", "Keep a node from etcd, and from nothing else"},
		{"join", "NODE", "Let a node reach etcd again"},
		{"strip", "HOST", "Take the programs of the fast path off a node's links"},
		{"mtu", "HOST BYTES", "Give both ends of a host's cable another MTU"},
		{"mtu-hole", "HOST BYTES", "Drop larger packets on a host's cable and tell nobody"},
		{"drop-udp", "HOST PORT", "Drop UDP to and from a host at a port"},
		{"allow-udp", "HOST PORT", "Undo drop-udp"},
	}
}

// Fault does what the words of a FaultCommand say.
func (l *faulter) Fault(ctx context.Context, words ...string) error {
	all := FaultCommands()
	i := slices.IndexFunc(all, func(f FaultCommand) bool { return len(words) > 0 && f.Name == words[0] })
	if i < 0 {
		return fmt.Errorf("fault %q: there is none; netlab fault --help lists them", strings.Join(words, " "))
	}
	f, args := all[i], words[1:]
	if f.Name == "heal" && len(args) == 0 {
		return l.Heal(ctx)
	}
	if len(args) != len(strings.Fields(f.Args)) {
		return fmt.Errorf("fault %s wants %s, and got %q", f.Name, f.Args, strings.Join(args, " "))
	}
	host := args[0]
	switch f.Name {
	case "stop":
		return l.Stop(ctx, host)
	case "kill":
		return l.Kill(ctx, host)
	case "start":
		return l.Start(ctx, host)
	case "power-off":
		return l.PowerOff(ctx, host)
	case "cut":
		return l.CutLink(ctx, host)
	case "heal":
		return l.HealLink(ctx, host)
	case "partition":
		return l.PartitionEtcd(ctx, host)
	case "join":
		return l.JoinEtcd(ctx, host)
	case "strip":
		return l.Strip(ctx, host)
	}
	n, err := strconv.ParseUint(args[1], 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("fault %s: %q: give a number from 1 to 65535", f.Name, args[1])
	}
	switch f.Name {
	case "drop-udp":
		return l.DropUDP(ctx, host, uint16(n))
	case "allow-udp":
		return l.AllowUDP(ctx, host, uint16(n))
	}
	return l.MTU(ctx, host, int(n), f.Name == "mtu-hole")
}

// FaultsOf are the faults of the underlay that a host has now, in words.
func (l *faulter) FaultsOf(host string) []string {
	var out []string
	if slices.Contains(l.Faults.Cut, host) {
		out = append(out, "cable pulled")
	}
	if slices.Contains(l.Faults.NoEtcd, host) {
		out = append(out, "no etcd")
	}
	for _, f := range l.Faults.NoUDP {
		if f.Host == host {
			out = append(out, fmt.Sprintf("no UDP %d", f.Port))
		}
	}
	return out
}
