package daemon

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm/controller"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/internal/doctor"
	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/internal/reconcile"
	"github.com/vethloom/vethloom/internal/render"
	"github.com/vethloom/vethloom/plan"
)

// system answers questions about the daemon itself.
type system struct {
	cfg     Config
	started time.Time
	ctrl    *controller.Controller
	engine  *engine.Engine
	images  *image.Store
	volumes volumes
	rec     *reconcile.Reconciler
	render  *render.Renderer
	events  *events
	notices []string
	names   func() error // why names are not answered
	leases  func() error // why leases of DHCP servers are not renewed
	docker  func() error // what is wrong with the networks and containers of Docker
	// firewall is what has the rules.
	firewall func() string
	paths    *kern.Fast
	examine  func(context.Context) []doctor.Finding
	cluster  func() *server.ClusterStatus
}

// Version implements [server.System].
func (s *system) Version() server.Version {
	v := server.Version{Version: s.cfg.Version, Commit: s.cfg.Commit, Go: runtime.Version()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		v.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	return v
}

// Status implements [server.System].
func (s *system) Status(ctx context.Context) (server.Status, error) {
	st := server.Status{
		Version: s.cfg.Version, Started: s.started, Root: s.cfg.Root, Run: s.cfg.Run,
		Firewall: s.firewall(), MTU: s.render.Host().MTU, Notices: s.notices, Cluster: s.cluster(),
	}
	if err := s.leases(); err != nil {
		st.Notices = append(slices.Clip(st.Notices), err.Error())
	}
	if err := s.names(); err != nil {
		st.Notices = append(slices.Clip(st.Notices), "names are not answered: "+err.Error())
	}
	if err := s.docker(); err != nil {
		st.Notices = append(slices.Clip(st.Notices), "Docker: "+err.Error())
	}
	networks, err := s.ctrl.Networks(ctx)
	if err != nil {
		return st, err
	}
	sandboxes, err := s.ctrl.Sandboxes(ctx)
	if err != nil {
		return st, err
	}
	endpoints, err := s.ctrl.Endpoints(ctx)
	if err != nil {
		return st, err
	}
	containers, err := s.engine.List(ctx, true)
	if err != nil {
		return st, err
	}
	st.Networks, st.Sandboxes, st.Endpoints, st.Containers = len(networks), len(sandboxes), len(endpoints),
		len(containers)
	for _, c := range containers {
		if c.Status == engine.Running {
			st.Running++
		}
	}
	if st.FastPath, err = s.fastPath(networks); err != nil {
		return st, err
	}
	st.Passes, st.Drifts = s.rec.Counts()
	st.Errors = s.rec.Failures()
	st.Converged = len(st.Errors) == 0
	return st, nil
}

// Diff implements [server.System].
func (s *system) Diff(ctx context.Context) ([]plan.Op, error) {
	ops, err := s.rec.Diff(ctx)
	if err != nil {
		return nil, fmt.Errorf("compare the records with the kernel: %w", err)
	}
	return ops, nil
}

// Doctor implements [server.System].
func (s *system) Doctor(ctx context.Context) ([]doctor.Finding, error) {
	return s.examine(ctx), nil
}

// Events implements [server.System].
func (s *system) Events(ctx context.Context, since time.Time) <-chan server.Event {
	return s.events.watch(ctx, since)
}
