package cli

import (
	"errors"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/flagspec"
	"github.com/vethloom/vethloom/internal/cli/show"
)

// limitFlags are the limits that run and create set, and update changes.
func limitFlags(cmd *cobra.Command, r *apiv1.Resources) {
	f := cmd.Flags()
	one(f, "memory", "m", "bytes", "memory limit, such as 64m", &r.Memory, flagspec.Size)
	one(f, "memory-reservation", "", "bytes", "memory that it is pushed back to when the host is short of it",
		&r.MemoryReservation, flagspec.Size)
	one(f, "memory-swap", "", "bytes", "memory and swap together; -1: no limit of swap (default twice the memory)",
		&r.MemorySwap, orUnlimited(flagspec.Size))
	one(f, "cpus", "", "decimal", "number of CPUs, such as 0.5", &r.NanoCpus, flagspec.CPUs)
	f.Int64VarP(&r.CpuShares, "cpu-shares", "c", 0, "share of the CPUs when they are short, 2 to 262144 (default 1024)")
	f.Int64Var(&r.CpuPeriod, "cpu-period", 0, "length of a period of --cpu-quota, in microseconds")
	f.Int64Var(&r.CpuQuota, "cpu-quota", 0, "CPU time in each period, in microseconds")
	f.Int64Var(&r.CpuRtPeriod, "cpu-rt-period", 0, "length of a period of --cpu-rt-runtime, in microseconds")
	f.Int64Var(&r.CpuRtRuntime, "cpu-rt-runtime", 0, "time of real-time processes in each period, in microseconds")
	f.StringVar(&r.CpusetCpus, "cpuset-cpus", "", "CPUs that it may run on, such as 0-2,4")
	f.StringVar(&r.CpusetMems, "cpuset-mems", "", "memory nodes that it may use")
	one(f, "pids-limit", "", "int", "limit of processes; 0 or -1: none", &r.PidsLimit, processes)
	one(f, "blkio-weight", "", "uint", "share of the block devices when they are busy, 10 to 1000", &r.BlkioWeight,
		func(v string) (uint32, error) {
			w, err := flagspec.Weight(v)
			return uint32(w), err
		})
	f.Var(&parsed{"bytes", func(string) error {
		_, err := show.Printf(cmd.ErrOrStderr(), "net: warning: --kernel-memory is deprecated and ignored: kernels "+
			"have no such limit any more\n")
		return err
	}}, "kernel-memory", "deprecated, and ignored")
	show.Must(f.MarkHidden("kernel-memory"))
}

// orUnlimited reads -1 as it is.
func orUnlimited(parse func(string) (int64, error)) func(string) (int64, error) {
	return func(v string) (int64, error) {
		if v == "-1" {
			return -1, nil
		}
		return parse(v)
	}
}

func processes(v string) (int64, error) {
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < -1 {
		return 0, errors.New("use a positive number, or -1 for no limit")
	}
	return n, nil
}

// deviceLimitFlags are limits that only a new container takes.
func deviceLimitFlags(f *pflag.FlagSet, r *apiv1.Resources) {
	one(f, "memory-swappiness", "", "int", "how readily its memory is swapped out, 0 to 100; -1: as the host's",
		&r.MemorySwappiness, swappiness)
	f.BoolVar(&r.OomKillDisable, "oom-kill-disable", false, "processes wait for memory instead of being killed")
	for _, l := range []struct {
		name, usage string
		to          *[]*apiv1.BlockDevice
		number      func(string) (uint64, error)
	}{
		{"blkio-weight-device", "share of a block device, DEVICE:WEIGHT", &r.BlkioWeightDevice, flagspec.Weight},
		{"device-read-bps", "limit of reading from a block device, DEVICE:BYTES a second", &r.ReadBps, flagspec.Bytes},
		{"device-write-bps", "limit of writing to a block device, DEVICE:BYTES a second", &r.WriteBps, flagspec.Bytes},
		{"device-read-iops", "limit of reading, DEVICE:OPERATIONS a second", &r.ReadIops, flagspec.Count},
		{"device-write-iops", "limit of writing, DEVICE:OPERATIONS a second", &r.WriteIops, flagspec.Count},
	} {
		several(f, l.name, l.usage, l.to, func(v string) (*apiv1.BlockDevice, error) {
			return flagspec.BlockDevice(v, l.number)
		})
	}
}

func swappiness(v string) (*int64, error) {
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < -1 || n > 100 {
		return nil, errors.New("use 0 to 100, or -1 for the host's")
	}
	if n == -1 {
		return nil, nil
	}
	return &n, nil
}
