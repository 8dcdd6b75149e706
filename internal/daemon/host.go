package daemon

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/cnm/controller"
	"github.com/vethloom/vethloom/internal/firewall"
	"github.com/vethloom/vethloom/internal/render"
)

// learnFirst learns what renders depend on at the start, when there is nobody to tell.
func learnFirst(ctx context.Context, d *daemon) error {
	facts, err := lookAtHost(ctx, d)
	if err == nil {
		d.render.Learned(facts)
	}
	return err
}

// learnHost renews what renders depend on besides the records: before every full pass, and when links or routes of the
// host change. Whoever comes first tells of a change, as the next finds none.
func (d *daemon) learnHost(ctx context.Context) error {
	d.learning.Lock() // what was looked up before does not replace what was looked up after it
	defer d.learning.Unlock()
	facts, err := lookAtHost(ctx, d)
	if err != nil {
		return err
	}
	before, now := d.render.Host(), facts.Host
	d.render.Learned(facts)
	if now.Equal(before) {
		return nil
	}
	d.log.Info("the host's links have changed", "mtu", now.MTU, "uplink", now.Uplink.Link, "uplink-mtu", now.Uplink.MTU,
		"address", now.Uplink.Addr4, "address6", now.Uplink.Addr6)
	d.rec.Resync()
	d.member.HostChanged()
	return nil
}

// lookAtHost looks up what renders depend on besides the records.
func lookAtHost(ctx context.Context, d *daemon) (f render.Facts, err error) {
	mtu, err := d.kernel.EgressMTU(ctx)
	if err != nil {
		return f, fmt.Errorf("find the MTU of the egress route: %w", err)
	}
	fc := firewall.Config{}
	if fc.NoIPv6, fc.AcceptRA, err = d.kernel.IPv6Host(ctx); err != nil {
		return f, fmt.Errorf("look at the host's IPv6: %w", err)
	}
	if fc.BridgeNetfilterOff, err = d.bridgeNetfilterOff(ctx); err != nil {
		return f, err
	}
	f.Shared = firewall.Base(fc)
	if f.Shared.Accepts, err = d.kernel.NeededAccepts(ctx); err != nil {
		return f, fmt.Errorf("look at other tools' FORWARD chains: %w", err)
	}
	f.Host = cnm.Host{MTU: mtu, NoIPv6: fc.NoIPv6, Node: d.member.ID()}
	if f.Host.NoFast, err = noFastPath(ctx, d, fc.BridgeNetfilterOff); err != nil {
		return f, fmt.Errorf("look whether there is a fast path: %w", err)
	}
	f.Host.Fast = f.Host.NoFast == ""
	if f.Host.Filters, err = filters(ctx, d); err != nil {
		return f, fmt.Errorf("look at other tools' rules: %w", err)
	}
	if f.Host.Uplink, err = d.uplink(ctx); err != nil {
		return f, err
	}
	if f.Host.Addrs, err = d.kernel.Addresses4(ctx); err != nil {
		return f, fmt.Errorf("look at the host's addresses: %w", err)
	}
	return f, nil
}

// bridgeNetfilterOff decides about bridge-nf-call-*, see [Config.Check].
func (d *daemon) bridgeNetfilterOff(ctx context.Context) (bool, error) {
	switch d.cfg.BridgeNetfilter {
	case "off":
		return d.kernel.HasBridgeNetfilter(ctx)
	case "keep":
		return false, nil
	}
	has, err := d.kernel.HasBridgeNetfilter(ctx)
	if err != nil || !has {
		return false, err
	}
	foreign, err := d.kernel.ForeignRules(ctx)
	if err != nil {
		return false, fmt.Errorf("look for other firewalls: %w", err)
	}
	return !foreign, nil
}

// learnAgain is the time until the host is looked at again when that failed: what has changed is not told twice.
const learnAgain = time.Second

// watchHost learns what renders depend on when it has changed.
func (d *daemon) watchHost(ctx context.Context, changed <-chan struct{}) error {
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-changed:
			if !ok {
				return nil
			}
		case <-again:
		}
		again = nil
		if err := d.learnHost(ctx); err != nil && ctx.Err() == nil {
			d.log.Error("could not look at the host; keeping what was known", "err", err)
			again = time.After(learnAgain)
		}
	}
}

// recordChanged tells watchers of a change of networks, sandboxes or endpoints.
func (d *daemon) recordChanged(e controller.Event) {
	d.member.Changed()
	if e.Kind == cnm.KindNetwork && d.follower != nil {
		d.follower.Wake() // Docker may have to get it
	}
	attrs := map[string]string{}
	for k, v := range map[string]string{"name": e.Name, "driver": e.Driver, "network": e.Network,
		"sandbox": e.Sandbox, "container": e.Container} {
		if v != "" {
			attrs[k] = v
		}
	}
	d.events.emit(server.Event{Time: e.Time, Type: string(e.Kind), Action: string(e.Action), ID: e.ID,
		Attributes: attrs})
}

// bootID identifies this boot of the host (random(4)).
func (c Config) bootID() (string, error) {
	if c.BootID != "" {
		return c.BootID, nil
	}
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot ID: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// machineID is the host's (machine-id(5)), or "" where there is none.
func machineID() string {
	b, err := os.ReadFile("/etc/machine-id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// dynamicPorts tells the controller which ports to publish on when nobody asked for one.
func (d *daemon) dynamicPorts() (from, to uint16, reserved func(uint16) bool) {
	free, err := d.kernel.DynamicPorts()
	if err != nil || len(free) == 0 {
		d.log.Warn("could not tell which ports are free to publish on; taking the IANA dynamic range", "err", err)
		return 49152, 65535, nil // RFC 6335 section 6
	}
	from = 65535
	for _, r := range free {
		from, to = min(from, r.From), max(to, r.To)
	}
	return from, to, func(p uint16) bool {
		for _, r := range free {
			if r.From <= p && p <= r.To {
				return false
			}
		}
		return true
	}
}
