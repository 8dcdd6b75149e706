package engine

import (
	"context"
	"net/netip"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/plan"
)

// Options are the part of a [Spec] that net-shim does as asked.
type Options = shim.Options

// Resources are the limits of a container.
type Resources = shim.Resources

// Healthcheck says how to find out whether a container does its work.
type Healthcheck = shim.Healthcheck

// Spec is what a user asks of a container. It is stored as given, so that a
// stopped container starts again with the same wishes.
type Spec struct {
	Options
	Name       string              `json:"name"`
	Image      string              `json:"image"`
	Command    []string            `json:"command,omitempty"`    // replaces the image's Cmd
	Entrypoint []string            `json:"entrypoint,omitempty"` // replaces the image's Entrypoint
	Env        []string            `json:"env,omitempty"`
	WorkDir    string              `json:"workDir,omitempty"`
	User       string              `json:"user,omitempty"` // name|uid[:group|gid]
	Hostname   string              `json:"hostname,omitempty"`
	TTY        bool                `json:"tty,omitempty"`
	OpenStdin  bool                `json:"openStdin,omitempty"`
	Remove     bool                `json:"remove,omitempty"`   // remove on exit
	Networks   []cnm.AttachRequest `json:"networks,omitempty"` // or one of "host", "none", "container:<name or ID>"
	Ports      []cnm.PortMapping   `json:"ports,omitempty"`
	Mounts     []Mount             `json:"mounts,omitempty"`
	CapAdd     []string            `json:"capAdd,omitempty"`
	CapDrop    []string            `json:"capDrop,omitempty"`
	// "" or "host": none of its own; "auto": a private user namespace
	UserNS      string        `json:"userNS,omitempty"`
	StopSignal  string        `json:"stopSignal,omitempty"`
	StopTimeout time.Duration `json:"stopTimeout,omitempty"` // 0: 10 s
	// servers that it asks for names that are none of ours, from inside; none: the host's
	DNS        []netip.Addr    `json:"dns,omitempty"`
	DNSSearch  []string        `json:"dnsSearch,omitempty"`  // "." alone: none, not the host's either
	DNSOptions []string        `json:"dnsOptions,omitempty"` // of resolv.conf(5)
	Expose     []plan.NamePort `json:"expose,omitempty"`     // ports it serves, beside those of its image
	// of a request: what it serves is published at free host ports, and among Ports then
	PublishAll bool              `json:"-"`
	ExtraHosts []string          `json:"extraHosts,omitempty"` // name:address
	Labels     map[string]string `json:"labels,omitempty"`

	// Whose namespaces it has. "": its own; "host"; "container:" and a name or ID, for PID and IPC. Besides, an IPC
	// namespace is "private", "shareable" or "none", which has no /dev/shm; a cgroup namespace "private".
	PidMode      string `json:"pidMode,omitempty"`
	IpcMode      string `json:"ipcMode,omitempty"`
	UTSMode      string `json:"utsMode,omitempty"`
	CgroupNSMode string `json:"cgroupNSMode,omitempty"`
	CgroupParent string `json:"cgroupParent,omitempty"` // "": netd's

	Init        bool              `json:"init,omitempty"` // an init of the host is the first process
	Restart     RestartPolicy     `json:"restart,omitzero"`
	Health      *Healthcheck      `json:"health,omitempty"` // over that of the image
	LogDriver   string            `json:"logDriver,omitempty"`
	LogOptions  map[string]string `json:"logOptions,omitempty"` // max-size, max-file, labels, env …
	StdinOnce   bool              `json:"stdinOnce,omitempty"`  // input ends with the first client that had it
	VolumesFrom []string          `json:"-"`                    // NAME[:ro|rw], of a request: among Mounts then
	Links       []string          `json:"links,omitempty"`      // NAME:ALIAS
	Annotations map[string]string `json:"annotations,omitempty"`
	Runtime     string            `json:"runtime,omitempty"`  // an outside OCI runtime's name or path
	Platform    string            `json:"platform,omitempty"` // of the image

	Client ClientNotes `json:"client,omitzero"`
}

// ClientNotes are what the client that made a container told of itself. They are shown, and mean nothing here.
type ClientNotes struct {
	AttachStdin, AttachStdout, AttachStderr bool
	CIDFile                                 string
}

// RestartPolicy says when a container that has ended is started again.
type RestartPolicy struct {
	Name       string `json:"name,omitempty"` // one of the Restart constants; "": RestartNo
	MaxRetries int    `json:"maxRetries,omitempty"`
}

// The names of restart policies.
const (
	RestartNo            = "no"
	RestartAlways        = "always"
	RestartUnlessStopped = "unless-stopped"
	RestartOnFailure     = "on-failure"
)

// The drivers of logs.
const (
	LogFiles = "json-file" // files that are rotated
	LogNone  = "none"
)

// Mount is a bind mount of a host path or of a named volume, or a file system in memory.
type Mount struct {
	Source   string `json:"source,omitempty"` // absolute host path, or a volume's name
	Target   string `json:"target"`           // absolute path in the container
	ReadOnly bool   `json:"readOnly,omitempty"`
	Volume   bool   `json:"volume,omitempty"`
	Tmpfs    *Tmpfs `json:"tmpfs,omitempty"` // nil: it is none

	// Of host paths.
	Propagation  string `json:"propagation,omitempty"` // see mount_namespaces(7); "": rprivate
	NonRecursive bool   `json:"nonRecursive,omitempty"`
	MustExist    bool   `json:"mustExist,omitempty"` // it is not made
	// ShallowReadOnly leaves what is mounted below the source writable.
	ShallowReadOnly bool `json:"shallowReadOnly,omitempty"`

	// Of volumes.
	NoCopy        bool              `json:"noCopy,omitempty"`  // it is not filled from the image
	Subpath       string            `json:"subpath,omitempty"` // in the volume
	Driver        string            `json:"driver,omitempty"`  // of one that is made, as the rest
	DriverOptions map[string]string `json:"driverOptions,omitempty"`
	Labels        map[string]string `json:"labels,omitempty"`
}

// Tmpfs is a file system in memory.
type Tmpfs struct {
	Size    int64    `json:"size,omitempty"` // bytes; 0: half the memory
	Mode    uint32   `json:"mode,omitempty"` // permissions; 0: 1777
	Options []string `json:"options,omitempty"`
}

// Status is where a container is in its life.
type Status string

// The states of a container.
const (
	Created Status = "created"
	Running Status = "running"
	Paused  Status = "paused"
	Exited  Status = "exited"
	// Restarting is a container that has ended and waits to be started again by its restart policy.
	Restarting Status = "restarting"
)

// Container is a container's record.
type Container struct {
	ID       string    `json:"id"` // 64 hex digits
	Spec     Spec      `json:"spec"`
	ImageID  string    `json:"imageID"` // digest of the image's config: sha256:…
	Created  time.Time `json:"created"`
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"`
	Status   Status    `json:"status"`
	Pid      int       `json:"pid,omitempty"`
	ExitCode int       `json:"exitCode"`
	OOM      bool      `json:"oom,omitempty"`
	Error    string    `json:"error,omitempty"` // why the last start failed
	Sandbox  string    `json:"sandbox,omitempty"`
	BootID   string    `json:"bootID,omitempty"` // of the boot it was last started in
	Phase    cnm.Phase `json:"phase"`
	Revision uint64    `json:"-"`

	RestartCount int     `json:"restartCount,omitempty"` // by its policy, since somebody started it
	Health       *Health `json:"health,omitempty"`       // nil: it has no check
}

// Health is what the checks of a container have found.
type Health struct {
	Status  string        `json:"status"` // one of the Health constants
	Failing int           `json:"failing,omitempty"`
	Log     []HealthProbe `json:"log,omitempty"` // the latest, oldest first
}

// What a container's health can be.
const (
	HealthStarting  = "starting"
	HealthGood      = "healthy"
	HealthUnhealthy = "unhealthy"
)

// HealthProbe is one check.
type HealthProbe struct {
	Start    time.Time `json:"start"`
	End      time.Time `json:"end"`
	ExitCode int       `json:"exitCode"`
	Output   string    `json:"output,omitempty"`
}

// Update changes a container. What is zero stays as it is.
type Update struct {
	Resources
	Restart *RestartPolicy
}

// StopOptions say how to end a container.
type StopOptions struct {
	Timeout *time.Duration // nil: the container's own; negative: no end
	Signal  string         // "": the container's own
}

// WaitCondition is what somebody waits for.
type WaitCondition string

// The conditions of a wait.
const (
	WaitNotRunning WaitCondition = "not-running" // or ""
	WaitNextExit   WaitCondition = "next-exit"
	WaitRemoved    WaitCondition = "removed"
)

// Networks gives containers their network. [controller.Controller] is behind it.
type Networks interface {
	// CreateSandbox makes a sandbox with the requested networks attached (none
	// at all for an empty list), or nothing. It returns once the kernel has it.
	CreateSandbox(ctx context.Context, r cnm.SandboxRequest) (cnm.Sandbox, []cnm.Endpoint, error)
	// DeleteSandbox detaches and removes everything of a sandbox; one that does
	// not exist is no error.
	DeleteSandbox(ctx context.Context, id string) error
	// Sandbox is what CreateSandbox made, as it is now.
	Sandbox(ctx context.Context, id string) (cnm.Sandbox, []cnm.Endpoint, error)
	// Network finds a network by name or ID.
	Network(ctx context.Context, ref string) (cnm.Network, error)
	// Attach and Detach change the networks of a sandbox.
	Attach(ctx context.Context, sandbox string, r cnm.AttachRequest) (cnm.Endpoint, error)
	Detach(ctx context.Context, sandbox, network string) error
	// Publish gives a sandbox these ports and no others, at the endpoint that they belong to.
	Publish(ctx context.Context, sandbox string, ports []cnm.PortMapping) error
	// Rename has others find a sandbox, which may not exist, by another name on all of its networks.
	Rename(ctx context.Context, sandbox, name string) error
	// Settled returns once who asks for names in the sandboxes made so far gets the right answers.
	Settled()
	// NetNSPath is where a process can open the sandbox's network namespace.
	NetNSPath(cnm.Sandbox) string
}
