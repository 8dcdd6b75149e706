package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// link is a way between two network namespaces of this host.
type link struct {
	name           string
	client, server string // paths of namespaces
	addr           string // of the server
	daemons        []int  // processes that move packets for it
}

// parallel are the numbers of streams.
var parallel = []int{1, 4}

// tcpGroup compares TCP throughput between two containers on one host.
func tcpGroup(ctx context.Context, m *machine) ([]group, error) {
	g := group{Title: "TCP between two containers of one host", Unit: "Gb/s", More: true}
	cost := group{Title: "Processor time of it, both ends together", Unit: "s/GB", Cost: true}
	if _, err := exec.LookPath("iperf3"); err != nil {
		m.missing("iperf3: make deps installs it", err)
		return []group{g, cost}, nil
	}
	links, err := tcpLinks(ctx, m)
	if err != nil {
		return nil, err
	}
	var rate, cpu []*series
	for _, streams := range parallel {
		for i, l := range links {
			name := fmt.Sprintf("%s, streams: %d", l.name, streams)
			rate, cpu = append(rate, g.series(name)), append(cpu, cost.series(name))
			if i > 0 {
				last := len(rate) - 1
				rate[last].Ours, cpu[last].Ours = rate[last-i], cpu[last-i]
			}
		}
	}
	for round := range m.cfg.tcpRounds {
		for i := range rate {
			i = (i + round) % len(rate)
			got, err := iperf(ctx, links[i%len(links)], parallel[i/len(links)], m.cfg.tcpTime)
			if err != nil {
				return nil, err
			}
			rate[i].Samples = append(rate[i].Samples, got.gbits)
			cpu[i].Samples = append(cpu[i].Samples, got.cpuPerGB)
		}
	}
	return []group{g, cost}, nil
}

func tcpLinks(ctx context.Context, m *machine) ([]link, error) {
	bare, err := bareBridge(ctx)
	if err != nil {
		return nil, err
	}
	f, err := m.startFabric(ctx)
	if err != nil {
		return nil, err
	}
	if f == nil {
		return []link{bare}, nil
	}
	ours, err := f.link(ctx, m)
	return []link{ours, bare}, err
}

// link is two sandboxes on one network.
func (f *fabric) link(ctx context.Context, m *machine) (link, error) {
	var paths, addrs []string
	for _, id := range []string{"0000000000a1", "0000000000b2"} {
		sb, err := f.attach(ctx, id, fabricNetwork)
		if err != nil {
			return link{}, err
		}
		m.defers(func() {
			if err := f.detach(context.WithoutCancel(ctx), id); err != nil {
				fmt.Fprintln(os.Stderr, "bench:", err)
			}
		})
		addr, err := netip.ParsePrefix(sb.Endpoints[0].Addresses[0])
		if err != nil {
			return link{}, fmt.Errorf("address of %s: %w", id, err)
		}
		paths, addrs = append(paths, sb.NetnsPath), append(addrs, addr.Addr().String())
	}
	return link{name: "vethloom bridge", client: paths[0], server: paths[1], addr: addrs[1]}, nil
}

// bareBridge is two namespaces, two veth pairs and a bridge, made by ip(8), with no rules.
func bareBridge(ctx context.Context) (link, error) {
	if _, err := command(ctx, "ip", "link", "add", "vlbare", "up", "type", "bridge"); err != nil {
		return link{}, err
	}
	for i := range 2 {
		ns := "bare" + strconv.Itoa(i)
		for _, args := range [][]string{
			{"netns", "add", ns},
			{"link", "add", "vlbare" + strconv.Itoa(i), "up", "master", "vlbare", "type", "veth", "peer", "name",
				"eth0", "netns", ns},
			{"-n", ns, "addr", "add", fmt.Sprintf("10.215.0.%d/24", i+1), "dev", "eth0"},
			{"-n", ns, "link", "set", "eth0", "up"},
		} {
			if _, err := command(ctx, "ip", args...); err != nil {
				return link{}, err
			}
		}
	}
	return link{name: "bare veth and bridge", client: "/run/netns/bare1", server: "/run/netns/bare0",
		addr: "10.215.0.1"}, nil
}

// iperfReport is what we read of its JSON.
type iperfReport struct {
	Error string `json:"error"` // with exit status 0
	End   struct {
		Received struct {
			Bits    float64 `json:"bits_per_second"`
			Bytes   float64 `json:"bytes"`
			Seconds float64 `json:"seconds"`
		} `json:"sum_received"`
		CPU struct {
			Host   float64 `json:"host_total"`
			Remote float64 `json:"remote_total"`
		} `json:"cpu_utilization_percent"`
	} `json:"end"`
}

// rate is what one iperf3 run measured.
type rate struct {
	gbits     float64
	gigabytes float64 // received, 10⁹ bytes
	cpuPerGB  float64 // seconds of processor, client and server, for each of them
}

func iperf(ctx context.Context, l link, streams int, length time.Duration) (rate, error) {
	server := exec.CommandContext(ctx, "nsenter", "--net="+l.server, "iperf3", "--server", "--one-off", "--bind",
		l.addr, "--json", "--pidfile", filepath.Join("/run", "iperf3.pid"))
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := server.Start(); err != nil {
		return rate{}, fmt.Errorf("start iperf3: %w", err)
	}
	defer func() {
		if err := server.Process.Kill(); err == nil {
			_ = server.Wait() // killed, or ended after one client: either is well
		}
	}()
	got, err := connect(ctx, l, streams, length)
	if err != nil {
		return rate{}, fmt.Errorf("iperf3 over %s: %w", l.name, err)
	}
	end := got.End
	return rate{
		gbits:     end.Received.Bits / 1e9,
		gigabytes: end.Received.Bytes / 1e9,
		cpuPerGB:  (end.CPU.Host + end.CPU.Remote) / 100 * end.Received.Seconds / (end.Received.Bytes / 1e9),
	}, nil
}

// connect runs the client, again and again while the server is not listening yet.
func connect(ctx context.Context, l link, streams int, length time.Duration) (iperfReport, error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for try := 0; ; try++ {
		var rep iperfReport
		out, err := command(ctx, "nsenter", "--net="+l.client, "iperf3", "--client", l.addr, "--json",
			"--parallel", strconv.Itoa(streams), "--time", strconv.Itoa(int(length.Seconds())))
		if jsonErr := json.Unmarshal(out, &rep); err == nil && jsonErr != nil {
			err = fmt.Errorf("its report: %w", jsonErr)
		}
		if rep.Error != "" {
			err = errors.New(rep.Error)
		}
		if err == nil && rep.End.Received.Bytes == 0 {
			err = errors.New("it moved no data")
		}
		if err == nil || try == 200 {
			return rep, err
		}
		select {
		case <-ctx.Done():
			return rep, ctx.Err()
		case <-tick.C:
		}
	}
}
