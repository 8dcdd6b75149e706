package shim

import (
	"time"

	"github.com/vethloom/vethloom/engine/snapshot"
)

// Bundle is everything net-shim must know to run one container.
type Bundle struct {
	Options
	ID         string           `json:"id"`
	Hostname   string           `json:"hostname"`
	Root       string           `json:"root"`                 // the root filesystem, once RootMounts are done
	RootMounts []snapshot.Mount `json:"rootMounts,omitempty"` // none: Root is the root filesystem itself
	Binds      []Bind           `json:"binds,omitempty"`
	Process    Process          `json:"process"`
	NetNS      string           `json:"netns,omitempty"`  // path of the network namespace; "" shares the shim's
	Cgroup     string           `json:"cgroup"`           // absolute in the hierarchy, or relative to the shim's own
	Caps       []string         `json:"caps,omitempty"`   // the bounding set, as CAP_…
	Compat     bool             `json:"compat,omitempty"` // programs of the 32-bit ABI may run
	Namespaces Namespaces       `json:"namespaces,omitzero"`
	IDMap      *IDMap           `json:"idMap,omitempty"` // nil: no user namespace of its own
	StateDir   string           `json:"stateDir"`        // for the runtime's own state; exists while the container runs
	ExitPath   string           `json:"exitPath"`        // where the exit status is left for netd
	Log        LogFile          `json:"log"`
}

// Namespaces are whose a container's are, besides the network's: "" for one of its own, "host" for the host's, or the
// path of that of another process.
type Namespaces struct {
	PID    string `json:"pid,omitempty"`
	IPC    string `json:"ipc,omitempty"`
	UTS    string `json:"uts,omitempty"`
	Cgroup string `json:"cgroup,omitempty"`
	// Shm is whose /dev/shm it is: that of the process with the mount namespace of this path, or [NoNamespace].
	Shm string `json:"shm,omitempty"`
}

// The words of [Namespaces].
const (
	HostNamespace = "host"
	NoNamespace   = "none"
)

// Bind makes a host path visible in the container, or memory as a file system.
type Bind struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"readOnly,omitempty"`
	// CopyUp fills an empty source with what the image has at the target.
	CopyUp bool `json:"copyUp,omitempty"`
	// Inert keeps programs in it from being run, and device nodes from working.
	Inert bool `json:"inert,omitempty"`
	// Tmpfs are the options of a file system in memory, which has no source; nil: it is not one.
	Tmpfs []string `json:"tmpfs,omitempty"`
	// Propagation is that of mount_namespaces(7): private, rslave and so on; "": rprivate.
	Propagation string `json:"propagation,omitempty"`
	// NonRecursive leaves out what is mounted below the source.
	NonRecursive bool `json:"nonRecursive,omitempty"`
	// ShallowReadOnly leaves what is mounted below the source writable.
	ShallowReadOnly bool `json:"shallowReadOnly,omitempty"`
	// Subpath of the source is what is shown. It is there; no link in it leads out of the source.
	Subpath string `json:"subpath,omitempty"`
	// FileSystem is mounted at the source first.
	FileSystem *FileSystem `json:"fileSystem,omitempty"`
}

// Shared reports whether what the container mounts below it appears on the host too.
func (b Bind) Shared() bool { return b.Propagation == "shared" || b.Propagation == "rshared" }

// FileSystem is one to mount, as mount(8) takes it.
type FileSystem struct {
	Type    string `json:"type,omitempty"`
	Device  string `json:"device,omitempty"`
	Options string `json:"options,omitempty"` // with commas
}

// IDMap maps the container's IDs 0…Size-1 to the host's from HostID on.
type IDMap struct {
	HostID uint32 `json:"hostID"`
	Size   uint32 `json:"size"`
}

// Process is a command in a container.
type Process struct {
	Args       []string `json:"args"`
	Env        []string `json:"env,omitempty"`
	Cwd        string   `json:"cwd,omitempty"`  // "": /
	User       string   `json:"user,omitempty"` // name|uid[:group|gid], looked up in the container
	TTY        bool     `json:"tty,omitempty"`
	Stdin      bool     `json:"stdin,omitempty"` // keep stdin open for attachers; else it is /dev/null
	Size       Size     `json:"size,omitzero"`
	Privileged bool     `json:"privileged,omitempty"` // every capability, for exec
}

// Size is that of a terminal, in characters.
type Size struct {
	Rows    uint16 `json:"rows,omitempty"`
	Columns uint16 `json:"columns,omitempty"`
}

// LogFile bounds the log a shim writes: Files files of MaxSize bytes.
type LogFile struct {
	Path    string `json:"path"`              // "": none is written
	MaxSize int64  `json:"maxSize,omitempty"` // bytes; 0: 10 MiB
	Files   int    `json:"files,omitempty"`   // 0: 3
}

// Exit is how a container or a command in it ended.
type Exit struct {
	Code     int       `json:"code"`             // 128+n after signal n
	Signal   int       `json:"signal,omitempty"` // 0: it exited
	OOM      bool      `json:"oom,omitempty"`    // the kernel killed for memory in this container
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished"`
	Error    string    `json:"error,omitempty"` // why the shim could not do its work
}

// Status is where a shim is with its container.
type Status string

// The states of a shim.
const (
	Creating Status = "creating"
	Running  Status = "running"
	Paused   Status = "paused"
	Exited   Status = "exited"
)

// State answers a state request.
type State struct {
	Status  Status    `json:"status"`
	Pid     int       `json:"pid,omitempty"` // of the container's first process, in netd's namespace
	Started time.Time `json:"started,omitzero"`
	// Of an exec that is gone on with: bytes of input that came to it, and bytes of output after Seen that are lost.
	Received int64 `json:"received,omitempty"`
	Lost     int64 `json:"lost,omitempty"`
}

// Op names a request.
type Op string

// The requests. Create comes first on the connection netd inherited to the
// shim; every other connection carries one request.
const (
	OpCreate  Op = "create" // Bundle; then Start on the same connection
	OpStart   Op = "start"  // reply: State; later the Exit frame
	OpState   Op = "state"
	OpWait    Op = "wait"    // reply, once it runs: State; later the Exit frame
	OpAttach  Op = "attach"  // reply, then stdio both ways, then the Exit frame
	OpExec    Op = "exec"    // Process; reply: State; then as attach
	OpRejoin  Op = "rejoin"  // goes on with an exec that was held; reply and rest as exec
	OpRelease Op = "release" // an exec's output is not waited for any more
	OpResize  Op = "resize"
	OpKill    Op = "kill"
	OpPause   Op = "pause"
	OpResume  Op = "resume"
	OpUpdate  Op = "update" // Resources: all that the container is to have
)

// Request asks something of a shim.
type Request struct {
	Op      Op       `json:"op"`
	Bundle  *Bundle  `json:"bundle,omitempty"`
	Process *Process `json:"process,omitempty"`
	Stdin   bool     `json:"stdin,omitempty"` // attach: this side sends stdin
	Size    Size     `json:"size,omitzero"`
	Signal  int      `json:"signal,omitempty"`
	Exec    string   `json:"exec,omitempty"` // the exec resize and kill are about; "": the container
	Detach  bool     `json:"detach,omitempty"`
	// Hold: an exec's output and exit status wait when its connection breaks off. Seen are the bytes of standard output
	// and standard error that a rejoining client has.
	Hold bool     `json:"hold,omitempty"`
	Seen [2]int64 `json:"seen,omitzero"`

	Resources *Resources `json:"resources,omitempty"`
}

// Reply answers a request.
type Reply struct {
	State State  `json:"state,omitzero"`
	Error *Error `json:"error,omitempty"`
}

// Code classifies an error for those who branch on it.
type Code string

// The classes of errors.
const (
	CodeInternal     Code = "internal"
	CodeNotFound     Code = "not-found"     // the command does not exist
	CodeNotRunnable  Code = "not-runnable"  // the command cannot be executed
	CodeNotRunning   Code = "not-running"   // the container has exited, or has not started
	CodeInvalid      Code = "invalid"       // the request cannot be met as asked
	CodeNoSuchTarget Code = "no-such-exec"  // the exec has ended
	CodeUnsupported  Code = "not-supported" // an operation this shim does not know
)

// Error is a failure told over the socket.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

func (e *Error) Error() string { return e.Message }
