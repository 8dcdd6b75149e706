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

// The contenders of one host.
const (
	bareBridges = "bare veth and bridge"
	oursBridge  = "vethloom bridge"
)

// parallel are the numbers of streams.
var parallel = []int{1, 4}

// tcpSection compares what connects two containers on one host.
func tcpSection(ctx context.Context, m *machine, rep *report) error {
	if _, err := exec.LookPath("iperf3"); err != nil {
		m.missing("iperf3: make deps installs it", err)
		return nil
	}
	links, err := tcpLinks(ctx, m)
	if err != nil {
		return err
	}
	t := newMatrix("Between two containers of one host", true)
	rep.Local = append(rep.Local, t)
	return t.measure(ctx, m.cfg.tcpRounds, m.cfg.tcpTime, links)
}

func tcpLinks(ctx context.Context, m *machine) ([]link, error) {
	bare, err := bareBridge(ctx)
	if err != nil {
		return nil, err
	}
	all := []link{bare}
	for _, start := range []func(context.Context) (*fabric, error){m.startFabric, m.startFastFabric} {
		f, err := start(ctx)
		if err != nil {
			return nil, err
		}
		if f == nil {
			continue
		}
		l, err := f.link(ctx, m)
		if err != nil {
			return nil, err
		}
		if f == m.fast {
			l.name = twin(l.name)
		}
		all = append(all, l)
	}
	return all, nil
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
	return link{name: oursBridge, client: paths[0], server: paths[1], addr: addrs[1], daemons: []int{f.pid}}, nil
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
	return link{name: bareBridges, client: "/run/netns/bare1", server: "/run/netns/bare0",
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
