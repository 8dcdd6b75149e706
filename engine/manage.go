package engine

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"time"
)

// Processes are those of a container, as ps(1) shows them.
type Processes struct {
	Titles []string
	Rows   [][]string // as long as Titles
}

// Top lists the processes of a container.
func (e *Engine) Top(context.Context, string, []string) (Processes, error) {
	return Processes{}, errors.ErrUnsupported
}

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
func (e *Engine) Stats(context.Context, string) (Stats, error) { return Stats{}, errors.ErrUnsupported }

// PathStat describes a file of a container.
type PathStat struct {
	Name       string
	Size       int64
	Mode       fs.FileMode
	Modified   time.Time
	LinkTarget string
}

// CopyInOptions say how to unpack into a container.
type CopyInOptions struct {
	// NoOverwriteDir refuses to have a directory and another kind of file take each other's place.
	NoOverwriteDir bool
	// KeepOwners leaves files the owners that the tar gives them; else root owns them.
	KeepOwners bool
}

// StatPath describes a file of a container.
func (e *Engine) StatPath(context.Context, string, string) (PathStat, error) {
	return PathStat{}, errors.ErrUnsupported
}

// CopyOut writes a tar of a file or directory of a container.
func (e *Engine) CopyOut(context.Context, string, string, func(PathStat) error, io.Writer) error {
	return errors.ErrUnsupported
}

// CopyIn unpacks a tar into a directory of a container.
func (e *Engine) CopyIn(context.Context, string, string, CopyInOptions, io.Reader) error {
	return errors.ErrUnsupported
}
