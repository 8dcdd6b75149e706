package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/shim"
)

// Stats is what a container uses at one moment. Times are in nanoseconds.
type Stats struct {
	ID, Name                     string
	Read                         time.Time
	CPUTotal, CPUUser, CPUSystem uint64
	HostCPU                      uint64 // that all processors of the host have run
	CPUs                         int    // of the host, that are online
	Periods, ThrottledPeriods    uint64
	ThrottledTime                uint64
	Memory                       uint64            // bytes, with caches
	MemoryLimit                  uint64            // bytes; that of the host where the container has none
	MemoryStats                  map[string]uint64 // memory.stat, as the kernel names it
	Pids, PidsLimit              uint64            // no limit: 0
	BlockRead, BlockWrite        uint64            // bytes
	BlockReadOps, BlockWriteOps  uint64
	OOMKills                     uint64
	Interfaces                   []InterfaceStats
}

// InterfaceStats are the counters of a link in a container.
type InterfaceStats struct {
	Interface                               string // in the container
	Network                                 string // name
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// Stats reads what a container uses, once. One that does not run uses nothing.
func (e *viewer) Stats(ctx context.Context, ref string) (Stats, error) {
	c, rec, err := e.glance(ctx, ref)
	if err != nil {
		return Stats{}, err
	}
	s := Stats{ID: rec.ID, Name: rec.Spec.Name, Read: time.Now()}
	if !isLive(rec.Status) {
		return s, nil
	}
	if err := s.host(); err != nil {
		return Stats{}, err
	}
	used, err := shim.CgroupUsage(e.cgroupOf(c))
	if err != nil {
		return Stats{}, fmt.Errorf("stats of container %s: %w", rec.Spec.Name, err)
	}
	s.use(used)
	if s.Interfaces, err = e.interfaces(ctx, rec); err != nil {
		return Stats{}, fmt.Errorf("stats of container %s: %w", rec.Spec.Name, err)
	}
	return s, nil
}

// host reads what there is of the host.
func (s *Stats) host() error {
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		return fmt.Errorf("open /proc: %w", err)
	}
	stat, err := proc.Stat()
	if err != nil {
		return fmt.Errorf("read the processors' times: %w", err)
	}
	t := stat.CPUTotal // a guest's time is the user's
	s.HostCPU = uint64((t.User + t.Nice + t.System + t.Idle + t.Iowait + t.IRQ + t.SoftIRQ) * 1e9)
	s.CPUs = len(stat.CPU)
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return fmt.Errorf("ask for the host's memory: %w", err)
	}
	s.MemoryLimit = uint64(info.Totalram) * uint64(info.Unit)
	return nil
}

// use takes over what a cgroup tells.
func (s *Stats) use(u shim.Usage) {
	cpu, mem := u.CpuStats, u.MemoryStats
	s.CPUTotal = cpu.CpuUsage.TotalUsage
	s.CPUUser, s.CPUSystem = cpu.CpuUsage.UsageInUsermode, cpu.CpuUsage.UsageInKernelmode
	s.Periods, s.ThrottledPeriods = cpu.ThrottlingData.Periods, cpu.ThrottlingData.ThrottledPeriods
	s.ThrottledTime = cpu.ThrottlingData.ThrottledTime
	s.Memory, s.MemoryStats, s.OOMKills = mem.Usage.Usage, mem.Stats, u.OOMKills
	if limit := mem.Usage.Limit; limit > 0 && limit < s.MemoryLimit {
		s.MemoryLimit = limit
	}
	s.Pids, s.PidsLimit = u.PidsStats.Current, u.PidsStats.Limit
	s.BlockRead, s.BlockWrite = transferred(u.BlkioStats.IoServiceBytesRecursive)
	s.BlockReadOps, s.BlockWriteOps = transferred(u.BlkioStats.IoServicedRecursive)
}

// transferred adds up what was read from and written to block devices.
func transferred(entries []cgroups.BlkioStatEntry) (read, written uint64) {
	for _, b := range entries {
		switch strings.ToLower(b.Op) {
		case "read":
			read += b.Value
		case "write":
			written += b.Value
		}
	}
	return read, written
}

// interfaces reads the counters of a container's links, as the container sees them: packets on the fast path are not
// in those of the host's links.
func (e *viewer) interfaces(ctx context.Context, rec record) ([]InterfaceStats, error) {
	if rec.Sandbox == "" || rec.NetNS == hostNetNS || rec.Pid <= 0 {
		return nil, nil
	}
	_, endpoints, err := e.c.Networks.Sandbox(ctx, rec.Sandbox)
	if errors.Is(err, cnm.ErrNotFound) {
		return nil, nil // it ends just now
	}
	if err != nil {
		return nil, err
	}
	links, err := linksOf(rec)
	if err != nil {
		return nil, err
	}
	var out []InterfaceStats
	for _, ep := range endpoints {
		l, ok := links[ep.LinkName()]
		if !ok {
			continue // it has been renamed, or is yet to come
		}
		network := ep.Network
		if n, err := e.c.Networks.Network(ctx, ep.Network); err == nil {
			network = n.Name
		}
		out = append(out, InterfaceStats{Interface: l.Name, Network: network,
			RxBytes: l.RxBytes, RxPackets: l.RxPackets, RxErrors: l.RxErrors, RxDropped: l.RxDropped,
			TxBytes: l.TxBytes, TxPackets: l.TxPackets, TxErrors: l.TxErrors, TxDropped: l.TxDropped})
	}
	return out, nil
}

// linksOf are the links that a container's first process sees; none once it has ended.
func linksOf(rec record) (procfs.NetDev, error) {
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		return nil, fmt.Errorf("open /proc: %w", err)
	}
	p, err := proc.Proc(rec.Pid)
	if err != nil {
		return nil, nil
	}
	links, err := p.NetDev()
	if processEnded(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the counters of its links: %w", err)
	}
	// Another process may have its number by now, and be somewhere else.
	own, ownErr := os.Stat(rec.NetNS)
	seen, seenErr := os.Stat(fmt.Sprintf("/proc/%d/ns/net", rec.Pid))
	if ownErr != nil || seenErr != nil || !os.SameFile(own, seen) {
		return nil, nil
	}
	return links, nil
}

// processEnded reports whether a file below /proc could not be read since its process has ended.
func processEnded(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL)
}
