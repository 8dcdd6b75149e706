package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"time"
)

// acrossMTU is that of every contender's containers: what VXLAN leaves of 1500, the largest header of all.
const acrossMTU = 1450

// acrossBudget bounds the rounds on one underlay; a slow machine has fewer of them.
const acrossBudget = 3 * time.Minute

// The contenders' names, which expectations refer to.
const (
	byHand       = "routed by hand"
	byHandBridge = "routed by hand, with bridges"
	byHandNAT    = "routed by hand, with bridges and masquerade"
	oursHostGW   = "vethloom host-gw"
	oursVXLAN    = "vethloom vxlan"
	oursOverlay  = "vethloom overlay"
	oursUDP      = "vethloom udp"
	oursPlainUDP = "vethloom udp, offload=off"
	theirHostGW  = "flannel host-gw"
	theirVXLAN   = "flannel vxlan"
	theirUDP     = "flannel udp"
)

// The fast path's contenders are on hosts of their own, beside those of today's path. [twin] is one of these with it.
const fastHosts = ", fast path"

func twin(name string) string { return name + fastHosts }

// underlay is what the links between the hosts can do, and what of them is changed to get there from the one before.
type underlay struct {
	name string
	full bool
	off  []string // features of the links, on either side
	on   []string // of the hosts' ends
}

var underlays = []underlay{
	{"full offloads", true, nil, nil},
	{"like a simple network card: tx, TSO and UDP tunnel offloads off", false, []string{"tx", "tso",
		"tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation"}, nil},
	// A veth pair does not unless it is told to; drivers of cards do.
	{"the same, and hosts put together what they receive (GRO)", false, nil, []string{"gro"}},
}

// acrossSection compares what connects containers on two hosts.
func acrossSection(ctx context.Context, m *machine, rep *report) error {
	if _, err := exec.LookPath("iperf3"); err != nil {
		m.missing("iperf3: make deps installs it", err)
		return nil
	}
	c, err := newCluster(ctx, m)
	if err != nil {
		return err
	}
	links, err := c.links(ctx)
	if err != nil {
		return err
	}
	links = slices.DeleteFunc(links, func(l link) bool { return !m.cfg.wants(l.name) })
	for _, l := range links {
		if err := reach(ctx, l); err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
	}
	for _, u := range underlays {
		if err := c.change(ctx, u); err != nil {
			return err
		}
		t := newMatrix("Between containers on two hosts, underlay: "+u.name, u.full)
		if err := t.measure(ctx, m.cfg.acrossRounds, m.cfg.acrossTime, links); err != nil {
			return err
		}
		rep.Across = append(rep.Across, t)
	}
	return nil
}

// measure lets the contenders take turns until the rounds or the time are over.
func (t *matrix) measure(ctx context.Context, rounds int, length time.Duration, links []link) error {
	for _, l := range links {
		t.row(l.name)
	}
	start := time.Now()
	for round := range rounds {
		// The next round takes as long as those before, on average.
		if spent := time.Since(start); round > 0 && spent+spent/time.Duration(round) > acrossBudget {
			t.Notes = append(t.Notes, fmt.Sprintf("Ended after %d of %d rounds: the time was over.", round, rounds))
			break
		}
		for i := range links {
			i = (i + round) % len(links)
			if err := t.Rows[i].measure(ctx, links[i], length); err != nil {
				return fmt.Errorf("%s: %w", links[i].name, err)
			}
		}
		fmt.Fprintf(os.Stderr, "bench: round %d of %d, %s\n", round+1, rounds, t.Title)
	}
	return nil
}

// measure does everything once over one link.
func (r *row) measure(ctx context.Context, l link, length time.Duration) error {
	for i, streams := range parallel {
		before, err := processTime(l.daemons)
		if err != nil {
			return err
		}
		got, err := iperf(ctx, l, streams, length)
		if err != nil {
			return err
		}
		after, err := processTime(l.daemons)
		if err != nil {
			return err
		}
		r.add(columnTCP+i, got.gbits)
		r.add(columnCPU+i, got.cpuPerGB+(after-before).Seconds()/got.gigabytes)
	}
	flow, err := flood(l, length/2)
	if err != nil {
		return fmt.Errorf("64-byte packets: %w", err)
	}
	r.add(columnUDP, float64(flow.received)/flow.took.Seconds()/1e3)
	r.add(columnLoss, 100*(1-float64(flow.received)/float64(max(1, flow.sent))))
	half, err := pingPong(l, length*3/10)
	if err != nil {
		return fmt.Errorf("ping-pong: %w", err)
	}
	r.add(columnLatency, float64(half.Nanoseconds())/1e3)
	return nil
}

// reach waits until the other end answers: routes and entries of peers come by way of etcd.
func reach(ctx context.Context, l link) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		_, err := command(ctx, "nsenter", "--net="+l.client, "ping", "-c", "1", "-W", "1", l.addr)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s does not answer", l.addr), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// flannelBinary finds a flanneld: FLANNEL names it, or it is on PATH.
func flannelBinary() (string, error) {
	path, err := exec.LookPath(cmp.Or(os.Getenv("FLANNEL"), "flanneld"))
	if err != nil {
		return "", err
	}
	if _, err := exec.LookPath("etcdctl"); err != nil {
		return "", fmt.Errorf("to give it its configuration: %w", err)
	}
	return path, nil
}
