package docker

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
)

type containerService struct {
	*Server
	execs *execTable
}

func containerRoutes(srv *Server) []route {
	s := containerService{Server: srv, execs: newExecTable()}
	out := []route{
		{pattern: "POST /containers/create", do: s.create},
		{pattern: "GET /containers/json", do: s.list},
		{pattern: "POST /containers/prune", do: s.prune},
		{pattern: "GET /containers/{id}/json", do: s.inspect},
		{pattern: "POST /containers/{id}/start", do: s.start},
		{pattern: "POST /containers/{id}/stop", do: s.stopOne},
		{pattern: "POST /containers/{id}/restart", do: s.restart},
		{pattern: "POST /containers/{id}/kill", do: s.kill},
		{pattern: "POST /containers/{id}/pause", do: s.pause},
		{pattern: "POST /containers/{id}/unpause", do: s.unpause},
		{pattern: "POST /containers/{id}/rename", do: s.rename},
		{pattern: "POST /containers/{id}/update", do: s.update},
		{pattern: "POST /containers/{id}/wait", do: s.wait, lasts: true},
		{pattern: "DELETE /containers/{id}", do: s.remove},
		{pattern: "GET /containers/{id}/top", do: s.top},
		{pattern: "GET /containers/{id}/stats", do: s.stats, lasts: true},
		{pattern: "GET /containers/{id}/logs", do: s.logs, lasts: true},
		{pattern: "GET /containers/{id}/changes", do: s.changes},
		{pattern: "GET /containers/{id}/export", do: s.export},
		{pattern: "POST /containers/{id}/resize", do: s.resize},
		{pattern: "HEAD /containers/{id}/archive", do: s.statPath},
		{pattern: "GET /containers/{id}/archive", do: s.copyOut},
		{pattern: "PUT /containers/{id}/archive", do: s.copyIn},
		{pattern: "POST /containers/{id}/attach", do: s.attach, lasts: true},
		{pattern: "GET /containers/{id}/attach/ws", do: absent("there is no attachment by way of WebSocket",
			"use POST /containers/{id}/attach")},
		{pattern: "POST /containers/{id}/copy", do: func(*answer, *http.Request) error {
			return &refusal{status: http.StatusNotFound, text: "copy is gone: use the archive of a container"}
		}},
		{pattern: "POST /containers/{id}/exec", do: s.execCreate},
		{pattern: "POST /exec/{id}/start", do: s.execStart, lasts: true},
		{pattern: "GET /exec/{id}/json", do: s.execInspect},
		{pattern: "POST /exec/{id}/resize", do: s.execResize},
	}
	for i, r := range out {
		out[i].do = asDocker(r.do)
	}
	return out
}

// asDocker gives the errors about containers the status and the words that clients of Docker know.
func asDocker(do handler) handler {
	return func(w *answer, r *http.Request) error {
		err := do(w, r)
		w.cut = err != nil && w.begun && w.status != http.StatusSwitchingProtocols
		told, ok := errors.AsType[*cnm.Error](err)
		switch {
		case errors.Is(err, engine.ErrNotRunning):
			return &refusal{status: http.StatusConflict, text: "Container " + r.PathValue("id") + " is not running: " +
				err.Error()}
		case ok && errors.Is(err, cnm.ErrNotFound) && told.Field == "container":
			return &refusal{status: http.StatusNotFound, text: "No such container: " + told.Value}
		}
		return err
	}
}

func (s containerService) start(w *answer, r *http.Request) error {
	if c := r.URL.Query().Get("checkpoint"); c != "" {
		return unsupported("checkpoint", c, "containers are not restored from checkpoints here", "leave it out")
	}
	id := r.PathValue("id")
	before, err := s.cfg.Containers.Inspect(r.Context(), id)
	if err != nil {
		return err
	}
	if before.Status == engine.Running || before.Status == engine.Paused {
		return w.empty(http.StatusNotModified)
	}
	if err := s.cfg.Containers.Start(r.Context(), id); err != nil {
		return cannotRun(err)
	}
	return w.empty(http.StatusNoContent)
}

// cannotRun adds the words by which Docker's own command tells why there is no command to run.
func cannotRun(err error) error {
	var exit server.ExitCoder
	if !errors.As(err, &exit) {
		return err
	}
	switch exit.ExitCode() {
	case exitNotFound:
		return &refusal{status: http.StatusBadRequest, text: err.Error() + ": executable file not found in $PATH"}
	case exitNotRunnable:
		return &refusal{status: http.StatusBadRequest, text: err.Error() + ": permission denied"}
	}
	return err
}

// The exit codes of commands that could not be run.
const (
	exitNotRunnable = 126
	exitNotFound    = 127
)

// stopOptions reads how a container is to be ended.
func stopOptions(r *http.Request) (engine.StopOptions, error) {
	o := engine.StopOptions{Signal: r.URL.Query().Get("signal")}
	text := r.URL.Query().Get("t")
	if text == "" {
		return o, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return o, invalid("t", text, "is no number of seconds", "give a whole number; -1 waits without an end")
	}
	o.Timeout = new(wholeSeconds(n))
	return o, nil
}

// wholeSeconds is a duration of so many seconds, or as many as one can have.
func wholeSeconds(n int) time.Duration {
	const most = int(1<<63-1) / int(time.Second)
	return time.Duration(max(min(n, most), -most)) * time.Second
}

func (s containerService) stopOne(w *answer, r *http.Request) error {
	o, err := stopOptions(r)
	if err != nil {
		return err
	}
	id := r.PathValue("id")
	before, err := s.cfg.Containers.Inspect(r.Context(), id)
	if err != nil {
		return err
	}
	if err := s.cfg.Containers.Stop(r.Context(), id, o); err != nil {
		return err
	}
	if before.Status == engine.Created || before.Status == engine.Exited {
		return w.empty(http.StatusNotModified)
	}
	return w.empty(http.StatusNoContent)
}

func (s containerService) restart(w *answer, r *http.Request) error {
	o, err := stopOptions(r)
	if err != nil {
		return err
	}
	return s.done(w, cannotRun(s.cfg.Containers.Restart(r.Context(), r.PathValue("id"), o)))
}

// done answers a request that has nothing to tell.
func (containerService) done(w *answer, err error) error {
	if err != nil {
		return err
	}
	return w.empty(http.StatusNoContent)
}

func (s containerService) kill(w *answer, r *http.Request) error {
	signal := r.URL.Query().Get("signal")
	if signal == "" {
		signal = "KILL"
	}
	id := r.PathValue("id")
	if err := s.cfg.Containers.Kill(r.Context(), id, signal); err != nil {
		return err
	}
	if slices.Contains([]string{"KILL", "SIGKILL", "9"}, strings.ToUpper(signal)) {
		ctx, cancel := context.WithTimeout(r.Context(), killTime)
		defer cancel()
		// Who kills a container takes it for ended. One that takes longer was killed all the same.
		_, _ = s.cfg.Containers.Wait(ctx, id, engine.WaitNotRunning, nil)
	}
	return w.empty(http.StatusNoContent)
}

// killTime is how long somebody who kills a container waits for its end.
const killTime = 10 * time.Second

func (s containerService) pause(w *answer, r *http.Request) error {
	return s.done(w, s.cfg.Containers.Pause(r.Context(), r.PathValue("id")))
}

func (s containerService) unpause(w *answer, r *http.Request) error {
	return s.done(w, s.cfg.Containers.Unpause(r.Context(), r.PathValue("id")))
}

func (s containerService) rename(w *answer, r *http.Request) error {
	name := strings.TrimPrefix(r.URL.Query().Get("name"), "/")
	if name == "" {
		return invalid("name", name, "is empty", "give the new name: name=NAME")
	}
	return s.done(w, s.cfg.Containers.Rename(r.Context(), r.PathValue("id"), name))
}

func (s containerService) update(w *answer, r *http.Request) error {
	var c updateBody
	if err := decode(w, r, &c); err != nil {
		return err
	}
	u := engine.Update{}
	var warnings notes
	var err error
	if u.Resources, err = decodeResources(c.Resources, &warnings); err != nil {
		return err
	}
	if c.PidsLimit != nil && *c.PidsLimit == 0 {
		u.PidsLimit = -1 // what is zero would stay as it is
	}
	if c.RestartPolicy.Name != "" {
		u.Restart = new(decodeRestart(c.RestartPolicy))
	}
	further, err := s.cfg.Containers.Update(r.Context(), r.PathValue("id"), u)
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, container.UpdateResponse{Warnings: append(warnings.all(), further...)})
}

func (s containerService) remove(w *answer, r *http.Request) error {
	if flag(r, "link") {
		return unsupported("link", "1", "links between containers are not removed by themselves",
			"remove the container that has the link")
	}
	_, err := s.cfg.Containers.Remove(r.Context(), r.PathValue("id"), flag(r, "force"), flag(r, "v"))
	return s.done(w, err)
}

func (s containerService) prune(w *answer, r *http.Request) error {
	due, err := dueFor(r)
	if err != nil {
		return err
	}
	ids, freed, err := s.cfg.Containers.PruneContainers(r.Context(), func(c engine.Container) bool {
		return due(c.Created, c.Spec.Labels)
	})
	if err != nil {
		return err
	}
	slices.Sort(ids)
	return w.json(http.StatusOK, container.PruneReport{ContainersDeleted: ids, SpaceReclaimed: uint64(max(freed, 0))})
}

// dueFor says what is to go.
func dueFor(r *http.Request) (func(created time.Time, labels map[string]string) bool, error) {
	given, err := filtersOf(r)
	if err != nil {
		return nil, err
	}
	return server.MatchPruned(given)
}

func (s containerService) top(w *answer, r *http.Request) error {
	args := strings.Fields(r.URL.Query().Get("ps_args"))
	p, err := s.cfg.Containers.Top(r.Context(), r.PathValue("id"), args)
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, container.TopResponse{Titles: p.Titles, Processes: p.Rows})
}

// wait answers when the container has ended. Its client starts it once the answer has begun, which is once somebody
// waits for the end.
func (s containerService) wait(w *answer, r *http.Request) error {
	id, condition := r.PathValue("id"), engine.WaitCondition(r.URL.Query().Get("condition"))
	switch condition {
	case "", engine.WaitNotRunning, engine.WaitRemoved, engine.WaitNextExit:
	default:
		return invalid("condition", string(condition), "is no condition",
			"use not-running, next-exit or removed")
	}
	out := lines{w}
	exit, err := s.cfg.Containers.Wait(r.Context(), id, condition, out.open)
	if err != nil && (!w.begun || r.Context().Err() != nil) {
		return err
	}
	answered := container.WaitResponse{StatusCode: int64(exit.Code)}
	if err != nil {
		answered = container.WaitResponse{StatusCode: -1, Error: &container.WaitExitError{Message: err.Error()}}
	}
	return out.send(answered)
}

func (s containerService) resize(w *answer, r *http.Request) error {
	size, err := windowSize(r)
	if err != nil {
		return err
	}
	if err := s.cfg.Containers.Resize(r.Context(), r.PathValue("id"), size); err != nil {
		return err
	}
	return w.empty(http.StatusOK)
}

// windowSize reads the size of a terminal.
func windowSize(r *http.Request) (engine.WindowSize, error) {
	var out engine.WindowSize
	for _, p := range []struct {
		name string
		to   *uint16
	}{{"h", &out.Rows}, {"w", &out.Columns}} {
		text := r.URL.Query().Get(p.name)
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return out, invalid(p.name, text, "is no size of a terminal", "give a number of characters")
		}
		*p.to = uint16(n)
	}
	return out, nil
}

// find is the container of a request.
func (s containerService) find(ctx context.Context, r *http.Request) (server.ContainerView, error) {
	return s.cfg.Containers.Inspect(ctx, r.PathValue("id"))
}
