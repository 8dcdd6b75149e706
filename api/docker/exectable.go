package docker

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
)

// How much is kept of commands that clients have asked for.
const (
	maxExecs     = 4096
	maxExecBytes = 64 << 20
	execKept     = 10 * time.Minute // after the end of a command
	execPatience = time.Hour        // for a command to be started
)

// execTable knows the commands that were asked for: a client makes one, starts it, and asks how it ended.
type execTable struct {
	mu    sync.Mutex // guards what follows, and the state of each command
	all   map[string]*execution
	bytes int
	now   func() time.Time
}

// execution is a command in a container.
type execution struct {
	id, container string
	asked         container.ExecCreateRequest
	bytes         int
	resize        chan engine.WindowSize

	begun, running bool
	pid            int
	exit           *int
	changed        time.Time
}

func newExecTable() *execTable { return &execTable{all: map[string]*execution{}, now: time.Now} }

func (t *execTable) add(in string, asked container.ExecCreateRequest) (string, error) {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	e := &execution{id: hex.EncodeToString(raw), container: in, asked: asked, bytes: 1 << 10,
		resize: make(chan engine.WindowSize, 1)}
	for _, s := range slices.Concat(asked.Cmd, asked.Env, []string{asked.User, asked.WorkingDir, asked.DetachKeys}) {
		e.bytes += len(s) + 16
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e.changed = t.now()
	t.expire()
	for len(t.all) >= maxExecs || t.bytes+e.bytes > maxExecBytes {
		if !t.dropOldest() {
			return "", &cnm.Error{Kind: cnm.ErrExhausted, Field: "exec", Value: in,
				Reason: "too many commands run", Remedy: "try again when some have ended"}
		}
	}
	t.all[e.id] = e
	t.bytes += e.bytes
	return e.id, nil
}

// expire forgets what nobody asks for any more.
func (t *execTable) expire() {
	for _, e := range t.all {
		idle := t.now().Sub(e.changed)
		if !e.running && (e.begun && idle > execKept || idle > execPatience) {
			t.drop(e)
		}
	}
}

func (t *execTable) drop(e *execution) {
	delete(t.all, e.id)
	t.bytes -= e.bytes
}

func (t *execTable) dropOldest() bool {
	var oldest *execution
	for _, e := range t.all {
		if !e.running && (oldest == nil || e.changed.Before(oldest.changed)) {
			oldest = e
		}
	}
	if oldest != nil {
		t.drop(oldest)
	}
	return oldest != nil
}

func (t *execTable) find(id string) (*execution, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expire()
	if e := t.all[id]; e != nil {
		return e, nil
	}
	return nil, &refusal{status: http.StatusNotFound, text: "No such exec instance: " + id}
}

// begin takes a command for the caller alone to run.
func (t *execTable) begin(e *execution) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.begun {
		return &refusal{status: http.StatusConflict, text: "Error: Exec command " + e.id + " has already run"}
	}
	e.begun, e.running, e.changed = true, true, t.now()
	return nil
}

func (t *execTable) runs(e *execution, pid int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e.pid = pid
}

func (t *execTable) ends(e *execution, code int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e.running, e.exit, e.changed = false, &code, t.now()
}

// resized has the latest size only.
func (t *execTable) resized(e *execution, size engine.WindowSize) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !e.running {
		return &refusal{status: http.StatusConflict, text: "exec " + e.id + " is not running"}
	}
	select {
	case <-e.resize:
	default:
	}
	e.resize <- size // nobody else sends
	return nil
}

// of are the commands that run in a container.
func (t *execTable) of(in string) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []string
	for _, e := range t.all {
		if e.container == in && e.running {
			out = append(out, e.id)
		}
	}
	slices.Sort(out)
	return out
}

func (t *execTable) inspect(e *execution) container.ExecInspectResponse {
	t.mu.Lock()
	defer t.mu.Unlock()
	return container.ExecInspectResponse{
		ID: e.id, Running: e.running, ExitCode: e.exit, OpenStdin: e.asked.AttachStdin,
		OpenStdout: e.asked.AttachStdout, OpenStderr: e.asked.AttachStderr, CanRemove: e.begun && !e.running,
		ContainerID: e.container, DetachKeys: []byte(e.asked.DetachKeys), Pid: e.pid,
		ProcessConfig: &container.ExecProcessConfig{Tty: e.asked.Tty, Entrypoint: e.asked.Cmd[0],
			Arguments: append([]string{}, e.asked.Cmd[1:]...), Privileged: &e.asked.Privileged, User: e.asked.User},
	}
}
