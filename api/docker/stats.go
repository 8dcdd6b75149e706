package docker

import (
	"errors"
	"net/http"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
)

// statsInterval is between two readings.
const statsInterval = time.Second

// stats reads what a container uses: again and again, once, or twice for what it uses in the time between.
func (s containerService) stats(w *answer, r *http.Request) error {
	c, err := s.find(r.Context(), r)
	if err != nil {
		return err
	}
	stream := flagOr(r, "stream", true)
	now, err := s.cfg.Containers.Stats(r.Context(), c.ID)
	if err != nil {
		return err
	}
	if !stream && (flag(r, "one-shot") || !lives(c.Status)) {
		return w.json(http.StatusOK, encodeStats(now, engine.Stats{}))
	}
	out := lines{w}
	if stream {
		if err := out.send(encodeStats(now, engine.Stats{})); err != nil {
			return err
		}
	}
	again := time.NewTicker(statsInterval)
	defer again.Stop()
	for {
		select {
		case <-again.C:
		case <-r.Context().Done():
			return r.Context().Err()
		}
		before := now
		now, err = s.cfg.Containers.Stats(r.Context(), c.ID)
		if errors.Is(err, cnm.ErrNotFound) && stream {
			return nil // it was removed
		}
		if err != nil {
			return err
		}
		if err := out.send(encodeStats(now, before)); err != nil || !stream {
			return err
		}
	}
}

func encodeStats(s, before engine.Stats) container.StatsResponse {
	out := container.StatsResponse{
		ID: s.ID, Name: "/" + s.Name, OSType: "linux", Read: s.Read, PreRead: before.Read, CPUStats: encodeCPU(s),
		PreCPUStats: encodeCPU(before),
		MemoryStats: container.MemoryStats{Usage: s.Memory, Limit: s.MemoryLimit, Stats: s.MemoryStats,
			Failcnt: s.OOMKills},
		PidsStats: container.PidsStats{Current: s.Pids, Limit: s.PidsLimit},
		BlkioStats: container.BlkioStats{
			IoServiceBytesRecursive: readWrite(s.BlockRead, s.BlockWrite),
			IoServicedRecursive:     readWrite(s.BlockReadOps, s.BlockWriteOps),
		},
	}
	for _, i := range s.Interfaces {
		if out.Networks == nil {
			out.Networks = map[string]container.NetworkStats{}
		}
		out.Networks[i.Interface] = container.NetworkStats{
			RxBytes: i.RxBytes, RxPackets: i.RxPackets, RxErrors: i.RxErrors, RxDropped: i.RxDropped,
			TxBytes: i.TxBytes, TxPackets: i.TxPackets, TxErrors: i.TxErrors, TxDropped: i.TxDropped,
		}
	}
	return out
}

func encodeCPU(s engine.Stats) container.CPUStats {
	return container.CPUStats{
		CPUUsage: container.CPUUsage{TotalUsage: s.CPUTotal, UsageInKernelmode: s.CPUSystem,
			UsageInUsermode: s.CPUUser},
		SystemUsage: s.HostCPU, OnlineCPUs: uint32(max(s.CPUs, 0)),
		ThrottlingData: container.ThrottlingData{Periods: s.Periods, ThrottledPeriods: s.ThrottledPeriods,
			ThrottledTime: s.ThrottledTime},
	}
}

func readWrite(read, write uint64) []container.BlkioStatEntry {
	return []container.BlkioStatEntry{{Op: "read", Value: read}, {Op: "write", Value: write}}
}
