package shim

import "time"

// Options are what a user asks of a container that net-shim does as asked. They are part of the
// request, of the stored record and of the bundle: an option is a field here, and a line of the
// renderer in package box.
type Options struct {
	Resources
	Ulimits     []Ulimit          `json:"ulimits,omitempty"`
	ShmSize     int64             `json:"shmSize,omitempty"` // bytes of /dev/shm; 0: 64 MiB
	Sysctls     map[string]string `json:"sysctls,omitempty"` // of the container's namespaces, by name with dots
	OOMScoreAdj int               `json:"oomScoreAdj,omitempty"`
	Domainname  string            `json:"domainname,omitempty"` // of NIS; see uname(2)
	Groups      []string          `json:"groups,omitempty"`     // further groups of every process: names or IDs
	Privileged  bool              `json:"privileged,omitempty"`
	ReadOnly    bool              `json:"readOnly,omitempty"` // the root filesystem
	NoNewPrivs  bool              `json:"noNewPrivs,omitempty"`
	// Seccomp is the filter of system calls: "" for the default one, "unconfined", or a profile, JSON as Docker has it.
	Seccomp     string   `json:"seccomp,omitempty"`
	AppArmor    string   `json:"appArmor,omitempty"` // profile; "": none of its own
	Unmasked    bool     `json:"unmasked,omitempty"` // nothing of /proc and /sys is hidden or read-only
	Devices     []Device `json:"devices,omitempty"`
	DeviceRules []string `json:"deviceRules,omitempty"` // of cgroups: "c 10:200 rwm"
}

// DefaultShmSize is the size of /dev/shm, in bytes.
const DefaultShmSize = 64 << 20

// Unconfined is no filter of system calls, in [Options].
const Unconfined = "unconfined"

// Resources are limits of a container, which can be changed while it runs. 0 and empty are none.
type Resources struct {
	Memory            int64  `json:"memory,omitempty"`            // bytes
	MemoryReservation int64  `json:"memoryReservation,omitempty"` // bytes
	MemorySwap        int64  `json:"memorySwap,omitempty"`        // bytes, with memory; 0: twice Memory; -1: no limit
	MemorySwappiness  *int64 `json:"memorySwappiness,omitempty"`  // 0 to 100; cgroups v1
	NanoCPUs          int64  `json:"nanoCPUs,omitempty"`          // 1e9 is one CPU
	CPUShares         int64  `json:"cpuShares,omitempty"`         // 2 to 262144; 1024 is the usual
	CPUPeriod         int64  `json:"cpuPeriod,omitempty"`         // microseconds
	CPUQuota          int64  `json:"cpuQuota,omitempty"`          // microseconds in each period
	CPURTPeriod       int64  `json:"cpuRTPeriod,omitempty"`       // microseconds; cgroups v1
	CPURTRuntime      int64  `json:"cpuRTRuntime,omitempty"`      // microseconds; cgroups v1
	CpusetCPUs        string `json:"cpusetCPUs,omitempty"`        // "0-2,4"
	CpusetMems        string `json:"cpusetMems,omitempty"`
	PidsLimit         int64  `json:"pidsLimit,omitempty"` // -1: none, also in an update
	OOMKillDisable    bool   `json:"oomKillDisable,omitempty"`

	BlkioWeight       uint16        `json:"blkioWeight,omitempty"` // 10 to 1000
	BlkioWeightDevice []BlockDevice `json:"blkioWeightDevice,omitempty"`
	ReadBps           []BlockDevice `json:"readBps,omitempty"` // bytes a second
	WriteBps          []BlockDevice `json:"writeBps,omitempty"`
	ReadIOps          []BlockDevice `json:"readIOps,omitempty"` // operations a second
	WriteIOps         []BlockDevice `json:"writeIOps,omitempty"`
}

// BlockDevice is a value for one block device of the host.
type BlockDevice struct {
	Path  string `json:"path"`
	Value uint64 `json:"value"`
}

// Ulimit is a limit of setrlimit(2). -1 is no limit.
type Ulimit struct {
	Name string `json:"name"` // without RLIMIT_, in small letters: nofile
	Soft int64  `json:"soft"`
	Hard int64  `json:"hard"`
}

// Device is a device of the host, or a directory of them, that a container has.
type Device struct {
	Source      string `json:"source"`
	Target      string `json:"target,omitempty"`      // in the container; "": as on the host
	Permissions string `json:"permissions,omitempty"` // of r, w, m; "": all
}

// Healthcheck says how to find out whether a container does its work.
type Healthcheck struct {
	Test          []string      `json:"test,omitempty"`          // CMD and arguments, CMD-SHELL and a line, or NONE
	Interval      time.Duration `json:"interval,omitempty"`      // 0: 30 s
	Timeout       time.Duration `json:"timeout,omitempty"`       // 0: 30 s
	StartPeriod   time.Duration `json:"startPeriod,omitempty"`   // in which failures do not count
	StartInterval time.Duration `json:"startInterval,omitempty"` // in that period; 0: 5 s
	Retries       int           `json:"retries,omitempty"`       // failures in a row that count; 0: 3
}
