package view

import (
	"fmt"
	"slices"

	apiv1 "github.com/vethloom/vethloom/api/v1"
)

// Stats are what a container uses, for people.
type Stats struct {
	ID, Name       string
	CPU            float64 // percent of one processor, since the reading before
	Memory, Limit  uint64  // bytes, without what the kernel can drop at once
	MemoryPercent  float64
	Rx, Tx         uint64 // bytes, of all networks
	Read, Written  uint64 // bytes, of block devices
	Pids, OOMKills uint64
	Interfaces     []*apiv1.InterfaceStats
	Running        bool
}

// StatsOf compares a reading with the one before, which may be nil.
func StatsOf(now, before *apiv1.ContainerStats) Stats {
	s := Stats{ID: now.GetId(), Name: now.GetName(), Limit: now.GetMemoryLimit(), Read: now.GetBlockRead(),
		Written: now.GetBlockWrite(), Pids: now.GetPids(), OOMKills: now.GetOomKills(),
		Interfaces: now.GetInterfaces(), Running: now.GetHostCpu() > 0}
	s.Memory = now.GetMemory() - min(now.GetMemory(), idleFiles(now.GetMemoryStats()))
	if s.Limit > 0 {
		s.MemoryPercent = 100 * float64(s.Memory) / float64(s.Limit)
	}
	for _, i := range s.Interfaces {
		s.Rx, s.Tx = s.Rx+i.GetRxBytes(), s.Tx+i.GetTxBytes()
	}
	if now.GetHostCpu() > before.GetHostCpu() && now.GetCpuTotal() > before.GetCpuTotal() && before != nil {
		used := float64(now.GetCpuTotal() - before.GetCpuTotal())
		s.CPU = 100 * used / float64(now.GetHostCpu()-before.GetHostCpu()) * float64(now.GetCpus())
	}
	return s
}

// idleFiles are the pages of files that the kernel drops first, by the names of cgroups v1 and v2.
func idleFiles(stat map[string]uint64) uint64 {
	if n, ok := stat["total_inactive_file"]; ok {
		return n
	}
	return stat["inactive_file"]
}

// Percent has two digits after the point.
func Percent(p float64) string { return fmt.Sprintf("%.2f%%", p) }

// BinarySize gives bytes four digits and a binary unit, as limits of memory are given.
func BinarySize(n uint64) string {
	f, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	i := 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	return fmt.Sprintf("%.4g%s", f, units[i])
}

// Pair is two values next to each other.
func Pair(a, b string) string { return a + " / " + b }

// Traffic is what came in and went out by each network.
func (s Stats) Traffic() []string {
	out := make([]string, 0, len(s.Interfaces))
	for _, i := range s.Interfaces {
		out = append(out, fmt.Sprintf("%s (%s) %s", i.GetNetwork(), i.GetInterface(),
			Pair(Size(int64(i.GetRxBytes())), Size(int64(i.GetTxBytes())))))
	}
	slices.Sort(out)
	return out
}
