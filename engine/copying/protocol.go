package copying

import (
	"io/fs"
	"time"

	"github.com/vethloom/vethloom/engine/shim"
)

// The descriptors that net-copy inherits besides its standard ones: a tar comes on standard input, or goes to standard
// output.
const (
	ControlFD = 3 // a connection to netd; when it ends, the process does
	TargetFD  = 4 // a pidfd of a process of the container, where that runs
)

// Op names what is to be done.
type Op string

// What can be done.
const (
	OpStat Op = "stat"
	OpOut  Op = "out" // replies: the stat before the tar, and an empty one after it
	OpIn   Op = "in"
)

// Request asks for one thing to be done.
type Request struct {
	Op   Op     `json:"op"`
	Path string `json:"path"` // in the container
	// Running: the container is that of the process behind TargetFD. Else Bundle is what a start would mount.
	Running bool        `json:"running,omitempty"`
	Bundle  shim.Bundle `json:"bundle,omitzero"`
	IDMap   *shim.IDMap `json:"idMap,omitempty"`
	// Scratch is a directory that a container has no use for. What is mounted to work is below it.
	Scratch        string `json:"scratch"`
	NoOverwriteDir bool   `json:"noOverwriteDir,omitempty"`
	KeepOwners     bool   `json:"keepOwners,omitempty"`
}

// Stat describes a file.
type Stat struct {
	Name     string      `json:"name"`
	Size     int64       `json:"size"`
	Mode     fs.FileMode `json:"mode"`
	Modified time.Time   `json:"modified"`
	// LinkTarget is where a link leads, whatever other links are on the way, in the container.
	LinkTarget string `json:"linkTarget,omitempty"`
}

// Reply answers a request.
type Reply struct {
	Stat  *Stat  `json:"stat,omitempty"`
	Error *Error `json:"error,omitempty"`
}

// Code classifies a failure.
type Code string

// The classes of failures.
const (
	CodeInternal Code = "internal"
	CodeNotFound Code = "not-found" // there is no such file
	CodeInvalid  Code = "invalid"   // it cannot be done as asked
	CodeReadOnly Code = "read-only" // nothing can be written there
)

// Error is a failure that the process told.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

func (e *Error) Error() string { return e.Message }
