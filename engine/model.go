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
}

// Mount is a bind mount of a host path, or of a named volume.
type Mount struct {
	Source   string `json:"source"` // absolute host path, or a volume's name
	Target   string `json:"target"` // absolute path in the container
	ReadOnly bool   `json:"readOnly,omitempty"`
	Volume   bool   `json:"volume,omitempty"`
}

// Status is where a container is in its life.
type Status string

// The states of a container.
const (
	Created Status = "created"
	Running Status = "running"
	Paused  Status = "paused"
	Exited  Status = "exited"
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
}

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
	// Settled returns once who asks for names in the sandboxes made so far gets the right answers.
	Settled()
	// NetNSPath is where a process can open the sandbox's network namespace.
	NetNSPath(cnm.Sandbox) string
}
