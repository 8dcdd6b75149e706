package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Faults are those of the underlay that last until they are healed.
type Faults struct {
	Cut    []string    `json:"cut,omitempty"`    // hosts whose cable is pulled
	NoEtcd []string    `json:"noEtcd,omitempty"` // nodes that reach every host but those of etcd
	NoUDP  []PortFault `json:"noUDP,omitempty"`
}

// PortFault drops what comes from and goes to a host at one UDP port.
type PortFault struct {
	Host string `json:"host"`
	Port uint16 `json:"port"`
}

// Stop ends a member's daemon as a service manager would.
func (l *faulter) Stop(ctx context.Context, host string) error {
	return l.end(ctx, host, syscall.SIGTERM)
}

// Kill ends a member's daemon with no chance to say anything. Containers stay.
func (l *faulter) Kill(ctx context.Context, host string) error {
	return l.end(ctx, host, syscall.SIGKILL)
}

func (l *faulter) end(ctx context.Context, host string, sig syscall.Signal) error {
	return l.update(ctx, func() error {
		i, err := l.index(host)
		if err != nil {
			return err
		}
		p := l.Members[i].Proc
		if !p.Alive() {
			return fmt.Errorf("the daemon of %s is not running: netlab fault start %s", host, host)
		}
		ctx, cancel := context.WithTimeoutCause(ctx, Patience, fmt.Errorf("it takes more than %s", Patience))
		defer cancel()
		return p.end(ctx, sig)
	})
}

// Start starts a member's daemon, and the whole host first when it is off.
func (l *faulter) Start(ctx context.Context, host string) error {
	return l.update(ctx, func() error {
		i, err := l.index(host)
		if err != nil {
			return err
		}
		m := l.Members[i]
		if m.Proc.Alive() {
			return fmt.Errorf("the daemon of %s runs already, process %d", host, m.Proc.PID)
		}
		if m.Off {
			if err := l.plug(ctx, m); err != nil {
				return err
			}
			l.Members[i].Off = false
			if err := l.applyFaults(ctx); err != nil {
				return err
			}
		}
		return l.start(ctx, i)
	})
}

// PowerOff takes a host away at once: its processes, containers and the state of its
// kernel are gone, its disk stays. Start boots it again.
func (l *faulter) PowerOff(ctx context.Context, host string) error {
	return l.update(ctx, func() error {
		i, err := l.index(host)
		if err != nil {
			return err
		}
		m := &l.Members[i]
		if m.Off {
			return fmt.Errorf("%s is off already", host)
		}
		// First the cable: a process that ends would still say goodbye to its peers.
		if err := l.ip(ctx, Underlay, "link del "+host); err != nil {
			return fmt.Errorf("power off %s: %w", host, err)
		}
		all, err := l.cgroups()
		if err != nil {
			return err
		}
		own := slices.DeleteFunc(all,
			func(dir string) bool { return !strings.Contains(dir+"/", "/"+l.cgroup()+"/"+host+"/") })
		m.Off = true
		if err := l.clear(ctx, l.path(host), crowd{cgroups: own}, l.pin(host)); err != nil {
			return fmt.Errorf("power off %s: %w", host, err)
		}
		if err := unmountBelow(l.path(host)); err != nil {
			return err
		}
		if err := syscall.Unmount(l.pin(host), syscall.MNT_DETACH); err != nil {
			return fmt.Errorf("power off %s: %w", host, err)
		}
		return os.RemoveAll(filepath.Join(l.path(host), "run"))
	})
}

// CutLink pulls a host's cable out of the underlay. HealLink puts it back.
func (l *faulter) CutLink(ctx context.Context, host string) error {
	return l.fault(ctx, host, func() { l.Faults.Cut = with(l.Faults.Cut, host) })
}

// HealLink puts a host's cable back.
func (l *faulter) HealLink(ctx context.Context, host string) error {
	return l.fault(ctx, host, func() { l.Faults.Cut = without(l.Faults.Cut, host) })
}

// PartitionEtcd keeps a node from etcd, and from nothing else.
func (l *faulter) PartitionEtcd(ctx context.Context, node string) error {
	return l.fault(ctx, node, func() { l.Faults.NoEtcd = with(l.Faults.NoEtcd, node) })
}

// JoinEtcd undoes PartitionEtcd.
func (l *faulter) JoinEtcd(ctx context.Context, node string) error {
	return l.fault(ctx, node, func() { l.Faults.NoEtcd = without(l.Faults.NoEtcd, node) })
}

// DropUDP drops what the underlay carries from or to a host at a UDP port, as a firewall between hosts may.
func (l *faulter) DropUDP(ctx context.Context, host string, port uint16) error {
	return l.fault(ctx, host, func() { l.Faults.NoUDP = with(l.Faults.NoUDP, PortFault{host, port}) })
}

// AllowUDP undoes DropUDP.
func (l *faulter) AllowUDP(ctx context.Context, host string, port uint16) error {
	return l.fault(ctx, host, func() { l.Faults.NoUDP = without(l.Faults.NoUDP, PortFault{host, port}) })
}

// Heal undoes every fault of the underlay; daemons and hosts that are down stay so.
func (l *faulter) Heal(ctx context.Context) error {
	err := l.fault(ctx, "", func() { l.Faults = Faults{} })
	if err != nil {
		return err
	}
	for _, m := range l.Members {
		if !m.Off {
			if err := l.MTU(ctx, m.Name, 1500, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// MTU gives a host's cable another MTU in bytes. As a hole only the underlay's end has it: larger
// packets are lost, and the host is not told.
func (l *faulter) MTU(ctx context.Context, host string, mtu int, hole bool) error {
	return l.update(ctx, func() error {
		if _, err := l.index(host); err != nil {
			return err
		}
		if mtu < 68 || mtu > 65535 { // RFC 791; the largest a veth takes
			return fmt.Errorf("MTU %d: give 68 to 65535 bytes", mtu)
		}
		if err := l.ip(ctx, Underlay, fmt.Sprintf("link set %s mtu %d", host, mtu)); err != nil || hole {
			return err
		}
		return l.ip(ctx, host, fmt.Sprintf("link set eth0 mtu %d", mtu))
	})
}

func with[T comparable](list []T, one T) []T { return append(without(list, one), one) }

func without[T comparable](list []T, one T) []T {
	return slices.DeleteFunc(slices.Clone(list), func(x T) bool { return x == one })
}

// fault changes the record of the faults and makes the underlay as it says.
func (l *faulter) fault(ctx context.Context, host string, change func()) error {
	return l.update(ctx, func() error {
		if host != "" {
			if _, err := l.index(host); err != nil {
				return err
			}
		}
		change()
		return l.applyFaults(ctx)
	})
}

func (l *faulter) applyFaults(ctx context.Context) error {
	for _, m := range l.Members {
		state := "up"
		if slices.Contains(l.Faults.Cut, m.Name) {
			state = "down"
		}
		if m.Off {
			continue
		}
		if err := l.ip(ctx, Underlay, "link set "+m.Name+" "+state); err != nil {
			return fmt.Errorf("cable of %s: %w", m.Name, err)
		}
	}
	_, err := l.runWith(ctx, l.filter(), "nsenter", "--net="+l.pin(Underlay), "--", "nft", "-f", "-")
	if err != nil {
		return fmt.Errorf("filter of the underlay: %w", err)
	}
	return nil
}

// filter is what the underlay drops, as one transaction of nft(8): for each port a chain that sees what its host sends.
func (l *faulter) filter() string {
	var b strings.Builder
	b.WriteString("table netdev faults {}\ndelete table netdev faults\ntable netdev faults {\n")
	for _, from := range l.Members {
		rules := l.drops(from)
		if len(rules) == 0 || from.Off {
			continue
		}
		fmt.Fprintf(&b, "chain %s {\ntype filter hook ingress device \"%s\" priority 0\n%s\n}\n", from.Name, from.Name,
			strings.Join(rules, "\n"))
	}
	b.WriteString("}\n")
	return b.String()
}

// drops are the rules for what one host sends.
func (l *faulter) drops(from Member) []string {
	var rules []string
	to := func(m Member, match string) {
		rules = append(rules, "ip daddr "+m.Addr4.String()+match+" drop")
		if m.Addr6.IsValid() {
			rules = append(rules, "ip6 daddr "+m.Addr6.String()+match+" drop")
		}
	}
	for _, name := range l.Faults.NoEtcd {
		for _, m := range l.Members {
			if from.Name == name && m.Kind == Server || from.Kind == Server && m.Name == name {
				to(m, "")
			}
		}
	}
	for _, f := range l.Faults.NoUDP {
		for _, m := range l.Members {
			switch {
			case m.Name == f.Host && from.Name == f.Host:
				rules = append(rules, fmt.Sprintf("udp dport %d drop", f.Port))
			case m.Name == f.Host:
				to(m, fmt.Sprintf(" udp dport %d", f.Port))
			}
		}
	}
	return rules
}

// Running reports whether a member's daemon runs.
func (m Member) Running() bool { return m.Proc.Alive() }

// Addrs are the member's addresses on the underlay.
func (m Member) Addrs() []netip.Addr {
	out := []netip.Addr{m.Addr4}
	if m.Addr6.IsValid() {
		out = append(out, m.Addr6)
	}
	return out
}
