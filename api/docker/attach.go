package docker

import (
	"net/http"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/vethloom/vethloom/engine"
)

// attach connects a client with the first process. Clients attach to a container that they have just made, and start
// it then.
func (s containerService) attach(w *answer, r *http.Request) error {
	c, err := s.find(r.Context(), r)
	if err != nil {
		return err
	}
	switch c.Status {
	case engine.Paused:
		return &refusal{status: http.StatusConflict, text: "Container " + c.Spec.Name +
			" is paused, unpause the container before attach"}
	case engine.Restarting:
		return &refusal{status: http.StatusConflict, text: "Container " + c.Spec.Name +
			" is restarting, wait until the container is running"}
	}
	keys, err := detachKeys(r.URL.Query().Get("detachKeys"))
	if err != nil {
		return err
	}
	t := newTalk(w, r, c.Spec.TTY)
	defer t.close()
	stdio := engine.Stdio{}
	if flag(r, "stdin") {
		stdio.Stdin = t.stdin(keys, c.Spec.StdinOnce)
	}
	if flag(r, "stdout") {
		stdio.Stdout = t.output(stdcopy.Stdout)
	}
	if flag(r, "stderr") {
		stdio.Stderr = t.output(stdcopy.Stderr)
	}
	begin := func() error {
		if err := t.open(s.stop); err != nil || !flag(r, "logs") {
			return err
		}
		return s.cfg.Containers.Logs(t.ctx, engine.LogsRequest{Container: c.ID, Tail: -1}, logTo(stdio.Stdout,
			stdio.Stderr))
	}
	if !flag(r, "stream") || stdio.Stdin == nil && stdio.Stdout == nil && stdio.Stderr == nil {
		return begin()
	}
	_, err = s.cfg.Containers.AttachNext(t.ctx, c.ID, begin, stdio)
	if t.conn != nil && t.ctx.Err() != nil {
		return nil // the client has gone, or netd goes
	}
	return err
}
