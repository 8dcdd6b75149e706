package server

import (
	"context"
	"net/netip"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/snapshot"
	"github.com/vethloom/vethloom/engine/volume"
	"github.com/vethloom/vethloom/internal/doctor"
	"github.com/vethloom/vethloom/internal/reconcile"
	"github.com/vethloom/vethloom/plan"
)

// Networks is what the networks service needs. References are names, IDs or
// unambiguous prefixes of IDs.
type Networks interface {
	CreateNetwork(context.Context, cnm.NetworkRequest) (NetworkView, error)
	ListNetworks(context.Context) ([]NetworkView, error)
	InspectNetwork(ctx context.Context, ref string) (NetworkView, error)
	// UpdateNetwork changes a network in place, or nothing.
	UpdateNetwork(ctx context.Context, ref string, c cnm.NetworkChange) (NetworkView, error)
	RemoveNetwork(ctx context.Context, ref string) (id string, err error)
	// PruneNetworks removes the networks that are due and that nobody is on.
	PruneNetworks(ctx context.Context, due func(cnm.Network) bool) (names []string, err error)
	// LeaveNetwork and JoinNetwork say whether this node takes part in a network of the cluster.
	LeaveNetwork(ctx context.Context, ref string, force bool) (id string, err error)
	JoinNetwork(ctx context.Context, ref string) (id string, err error)
	// Connect joins a container, or a sandbox, to a further network.
	Connect(ctx context.Context, container string, r cnm.AttachRequest) (EndpointView, error)
	Disconnect(ctx context.Context, network, container string, force bool) error
	// ListEndpoints lists who is on a network, or on any for "", on this node and on others.
	ListEndpoints(ctx context.Context, network string) ([]EndpointView, error)
}

// NetworkView is a network with what belongs to it.
type NetworkView struct {
	cnm.Network
	Link      string // on the host; empty when the network has none
	Endpoints []EndpointView
}

// EndpointView is an endpoint with the names of what it refers to.
type EndpointView struct {
	cnm.Endpoint
	NetworkName   string
	ContainerID   string
	ContainerName string
	Interface     string // in the sandbox
	HostLink      string
	Gateways      []netip.Addr
	Missing       []netip.Addr  // that its ports wait for: the host does not have them
	Node          string        // name of its node, where others may be meant
	Path          *EndpointPath // nil: it is not attached, or on another node
}

// EndpointPath is how packets of an endpoint pass its host.
type EndpointPath struct {
	Slow string // why they take the slow path; "": they may take the fast one
}

// Sandboxes is what the sandboxes service needs.
type Sandboxes interface {
	CreateSandbox(context.Context, cnm.SandboxRequest) (SandboxView, error)
	RemoveSandbox(ctx context.Context, id string) error
	ListSandboxes(context.Context) ([]SandboxView, error)
}

// SandboxView is a sandbox with its endpoints.
type SandboxView struct {
	cnm.Sandbox
	Path      string // where a process can open its network namespace
	Endpoints []EndpointView
}

// Containers is what the containers service needs.
type Containers interface {
	ContainerLife
	ContainerStreams
	ContainerViews
	ContainerFiles
}

// ContainerLife moves containers through their life.
type ContainerLife interface {
	Create(context.Context, engine.Spec) (id string, warnings []string, err error)
	Start(ctx context.Context, ref string) error
	// Stop asks, and kills after the timeout.
	Stop(ctx context.Context, ref string, o engine.StopOptions) error
	Restart(ctx context.Context, ref string, o engine.StopOptions) error
	Pause(ctx context.Context, ref string) error
	Unpause(ctx context.Context, ref string) error
	Rename(ctx context.Context, ref, name string) error
	// Update changes limits and restart policy, whether the container runs or not.
	Update(ctx context.Context, ref string, u engine.Update) (warnings []string, err error)
	// Kill sends a signal, by name or number.
	Kill(ctx context.Context, ref, signal string) error
	Remove(ctx context.Context, ref string, force, volumes bool) (id string, err error)
	// ChangePorts takes published ports from a container, then gives it others; or changes nothing.
	ChangePorts(ctx context.Context, ref string, add, remove []cnm.PortMapping) error
	// Wait returns when what it waits for has come about. No end is missed once ready is called, which may be nil.
	Wait(ctx context.Context, ref string, c engine.WaitCondition, ready func() error) (engine.ExitStatus, error)
	// PruneContainers removes those that do not run and are due.
	PruneContainers(ctx context.Context, due func(engine.Container) bool) (ids []string, reclaimed int64, err error)
}

// ContainerStreams connects clients with processes.
type ContainerStreams interface {
	// Attach connects a client to the first process, started before with start,
	// and returns when that has exited, or with the context's error.
	Attach(ctx context.Context, ref string, start bool, stdio engine.Stdio) (engine.ExitStatus, error)
	// AttachNext is Attach to one that somebody else starts, now or later: no output is lost from when ready is called
	// on.
	AttachNext(ctx context.Context, ref string, ready func() error, stdio engine.Stdio) (engine.ExitStatus, error)
	// Resize sets the size of the first process's terminal.
	Resize(ctx context.Context, ref string, size engine.WindowSize) error
	// Exec runs a further process. Detached, it returns once the process runs.
	Exec(context.Context, engine.ExecRequest, engine.Stdio) (engine.ExitStatus, error)
	// Logs calls the function for each line; an error of it ends Logs.
	Logs(context.Context, engine.LogsRequest, func(engine.LogLine) error) error
}

// ContainerViews shows containers.
type ContainerViews interface {
	// List returns all containers, newest first; stopped ones only with all.
	List(ctx context.Context, all bool) ([]ContainerView, error)
	Inspect(ctx context.Context, ref string) (ContainerView, error)
	// Top lists the processes of a container, as ps(1) shows them with these arguments; none: -ef.
	Top(ctx context.Context, ref string, args []string) (engine.Processes, error)
	// Stats reads what a container uses, once.
	Stats(ctx context.Context, ref string) (engine.Stats, error)
	// WrittenBy returns how many bytes a container has on the disk, its log too.
	WrittenBy(ctx context.Context, ref string) (int64, error)
}

// ContainerView is a container with what belongs to it.
type ContainerView struct {
	engine.Details
	Sandbox SandboxView
	Layer   snapshot.Dirs // of its own, over its image's
}

// Volumes is what the volumes service needs.
type Volumes interface {
	// CreateVolume makes a volume, or returns the one of that name; without a name it makes one up.
	CreateVolume(ctx context.Context, r volume.Request) (VolumeView, error)
	ListVolumes(context.Context) ([]VolumeView, error)
	InspectVolume(ctx context.Context, name string) (VolumeView, error)
	RemoveVolume(ctx context.Context, name string) error
	// PruneVolumes removes the volumes that are due and that no container uses: those that nobody has named, or any
	// with all. What they took is in bytes.
	PruneVolumes(ctx context.Context, all bool, due func(volume.Volume) bool) (names []string, freed int64, err error)
}

// VolumeView is a volume and the names of the containers that use it.
type VolumeView struct {
	volume.Volume
	Containers []string
}

// System is what the system service needs.
type System interface {
	Version() Version
	Status(context.Context) (Status, error)
	// Diff compares what the records ask for with what the kernel has.
	Diff(context.Context) ([]plan.Op, error)
	Doctor(context.Context) ([]doctor.Finding, error)
	// Events returns what happened since a time, as far as it is known, and happens from now on; the zero time leaves
	// the past out. The channel is closed with the context.
	Events(ctx context.Context, since time.Time) <-chan Event
	// DiskUsage reads every directory of images, containers and volumes.
	DiskUsage(context.Context) (DiskUsage, error)
}

// Version says what serves.
type Version struct {
	Version, Commit, Go, Kernel string
}

// Status is how the daemon is doing.
type Status struct {
	Version    string
	Started    time.Time
	Root, Run  string
	Firewall   string
	MTU        int // of the egress route, bytes
	Networks   int
	Endpoints  int
	Sandboxes  int
	Containers int
	Running    int
	Converged  bool
	Passes     uint64
	Drifts     uint64 // passes in which the kernel had been changed by someone else
	Errors     []reconcile.Failure
	Notices    []string
	Cluster    *ClusterStatus // nil: this node is in no cluster
	FastPath   FastPath
}

// FastPath tells of the fast path of the host.
type FastPath struct {
	State  string // on, off, or why there is none
	Counts []PathCount
}

// PathCount is what of a network took one path for one reason.
type PathCount struct {
	Network        string // name
	Fast           bool
	Reason         string // of the slow path
	Packets, Bytes uint64
}

// Event is something that happened.
type Event struct {
	Time       time.Time
	Type       string // network, endpoint, container, image, volume, kernel
	Action     string
	ID         string
	Attributes map[string]string
}
