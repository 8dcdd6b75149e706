package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/engine/shim/logfile"
	"github.com/vethloom/vethloom/engine/snapshot"
	"github.com/vethloom/vethloom/engine/volume"
)

// Config says what an [Engine] works with.
type Config struct {
	Store     cnm.Store // the records of kind container
	Networks  Networks
	Images    Images
	Snapshots Snapshots
	Volumes   Volumes

	Root     string // durable; containers/<id> below it holds logs and generated files
	Run      string // void after a boot; containers/<id> below it exists while one runs
	ShimPath string // of net-shim
	CopyPath string // of net-copy. "": beside net-shim
	// CgroupParent is the cgroup that containers are made in. "": one of this
	// Run directory's own, at the top or in the subtree delegated to netd.
	CgroupParent string
	BootID       string // "": the kernel's
	// Resolv are the files where the host says which resolvers it uses; the first that names one that a container
	// can reach counts. nil: the host's own.
	Resolv []string
	// Events is told what happens to containers; it must not block. nil: nobody is.
	Events func(Event)
	Log    *slog.Logger
}

// Images is what the engine needs of [image.Store].
type Images interface {
	Resolve(ctx context.Context, ref string) (image.Image, error)
	Confirm(ctx context.Context, id string) error
	LayerDirs(image.Image) []string
	CheckLayers(image.Image) error // none is missing
}

// Snapshots is what the engine needs of [snapshot.Snapshots].
type Snapshots interface {
	Prepare(ctx context.Context, id string, lower []string) ([]snapshot.Mount, error)
	Remove(ctx context.Context, id string) error
	Usage(ctx context.Context, id string) (snapshot.Usage, error)
}

// Volumes is what the engine needs of [volume.Volumes].
type Volumes interface {
	Ensure(ctx context.Context, r volume.Request) (volume.Volume, bool, error)
	Get(ctx context.Context, name string) (volume.Volume, error)
	Remove(ctx context.Context, name string, inUse func(name string) []string) error
}

// Event is something that happened to a container.
type Event struct {
	Time       time.Time
	Action     string // in Docker's words: create, start, die, exec_create: sh, health_status: healthy …
	ID         string
	Attributes map[string]string // name, image, exitCode, signal
}

// Engine runs containers. Its methods may be called at the same time.
//
// What it does is done by its parts, each over those below it: records; sandboxes, the network that a container is
// in; remover; settler, which makes a record agree with what goes on; starter, stopper, creator, streams and viewer.
type Engine struct {
	*records
	*preparer
	*settler
	*starter
	*stopper
	*creator
	*streams
	*viewer
	*connector
}

// records are the containers there are, and what every part works with.
type records struct {
	c        Config
	log      *slog.Logger
	launcher shim.Launcher
	cgroup   string

	life   context.Context // ends with Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup // what goes on in the background: watching, saving, tidying

	mu         sync.Mutex
	containers map[string]*container
	names      map[string]string // to IDs
	sandboxes  map[string]*sandbox
	removed    map[string]removedContainer // by ID: for those who still ask how it ended

	resumed chan struct{} // closed by Resume
	resume  sync.Once
}

// The parts of an [Engine].
type (
	sandboxes struct{ *records }
	remover   struct{ *sandboxes }
	settler   struct {
		*remover
		// again starts a container by its restart policy.
		again func(context.Context, *container) error
		// check begins to look after the health of a container that runs, until that end.
		check func(*container, *ending)
	}
	preparer struct{ *records }
	starter  struct {
		*settler
		*preparer
	}
	stopper struct{ *settler }
	creator struct{ *remover }
	streams struct{ *starter }
	viewer  struct {
		*settler
		*preparer
		followed *logfile.Watcher
	}
)

// settlers is how many containers are compared with reality at the same time
// when netd starts.
const settlers = 16

// New loads the records and makes them agree with what goes on: it finds the
// supervisors that ran on without netd, learns what ended meanwhile, and undoes
// what was begun and not finished. A container that cannot be settled is
// reported to the log, and again by whatever is asked of it.
func New(ctx context.Context, c Config) (*Engine, error) {
	r := &records{
		c: c, log: c.Log, launcher: shim.Launcher{Path: c.ShimPath}, cgroup: c.CgroupParent,
		containers: map[string]*container{}, names: map[string]string{}, sandboxes: map[string]*sandbox{},
		removed: map[string]removedContainer{}, resumed: make(chan struct{}),
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	e := newEngine(r)
	if e.c.Events == nil {
		e.c.Events = func(Event) {}
	}
	if err := e.prepare(); err != nil {
		return nil, err
	}
	if err := e.load(ctx); err != nil {
		return nil, err
	}
	e.life, e.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := e.sweepDirs(ctx); err != nil {
		return nil, err
	}
	e.each(func(c *container) error {
		err := e.Settle(ctx, c.id)
		if errors.Is(err, shim.ErrNoAnswer) {
			e.tasks.Go(func() { e.settleLater(c.id) })
		}
		return err
	})
	e.each(func(c *container) error { return e.sweep(ctx, c) })
	return e, nil
}

func newEngine(r *records) *Engine {
	f, rm := &preparer{r}, &remover{&sandboxes{r}}
	s := &settler{remover: rm}
	start := &starter{s, f}
	st := &streams{start}
	s.again, s.check = start.restart, st.check
	return &Engine{
		records: r, preparer: f, settler: s, starter: start, stopper: &stopper{s}, creator: &creator{rm},
		streams: st,
		viewer:  &viewer{s, f, &logfile.Watcher{Log: r.log}}, connector: &connector{s},
	}
}

// sweepDirs removes the directories of containers without a record, which a
// crash during their creation or removal leaves. What a supervisor still runs in
// is left alone: the records may be older than it is, from a backup.
func (e *settler) sweepDirs(ctx context.Context) error {
	runs, err := os.ReadDir(e.runDir())
	if err != nil {
		return fmt.Errorf("look for what a crash left: %w", err)
	}
	for _, d := range runs {
		if e.containers[d.Name()] != nil {
			continue
		}
		dir := filepath.Join(e.runDir(), d.Name())
		if _, err := (shim.Client{Dir: dir}).State(ctx); err == nil || errors.Is(err, shim.ErrNoAnswer) {
			e.log.Error("a container runs that there is no record of", "container", d.Name(), "run", dir, "error", err)
			continue
		}
		cgroup, err := e.cgroupLeft(dir)
		if err == nil {
			err = errors.Join(shim.KillCgroup(cgroup), os.RemoveAll(dir))
		}
		if err != nil {
			return fmt.Errorf("remove what a crash left: %w", err)
		}
	}
	durable, err := os.ReadDir(e.containersDir())
	if err != nil {
		return fmt.Errorf("look for what a crash left: %w", err)
	}
	for _, d := range durable {
		if e.containers[d.Name()] == nil {
			// Only an empty one: see Create. What holds a log is not ours to throw away.
			if err := os.Remove(filepath.Join(e.containersDir(), d.Name())); err != nil {
				e.log.Warn("a container's directory without a record", "error", err)
			}
		}
	}
	return nil
}

// each does something for every container, several at a time. One that fails
// does not keep the others from it.
func (e *settler) each(do func(*container) error) {
	var g errgroup.Group
	g.SetLimit(settlers)
	for _, c := range e.all() {
		g.Go(func() error {
			if err := do(c); err != nil && !errors.Is(err, cnm.ErrNotFound) {
				e.log.Error("settle a container", "container", c.id, "error", err)
			}
			return nil
		})
	}
	g.Wait() // never fails: see above
}

func (e *records) prepare() error {
	for _, dir := range []string{e.containersDir(), e.runDir()} {
		// Containers leave files in them, which no other user of the host may reach.
		// Those above may be entered: the root of a user namespace must reach its root filesystem.
		if err := errors.Join(os.MkdirAll(filepath.Dir(dir), 0o711), os.MkdirAll(dir, 0o700),
			os.Chmod(dir, 0o700)); err != nil {
			return fmt.Errorf("make the engine's directory: %w", err)
		}
	}
	if e.c.BootID == "" {
		id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil {
			return fmt.Errorf("learn which boot this is: %w", err)
		}
		e.c.BootID = string(id[:36])
	}
	if e.c.CopyPath == "" {
		e.c.CopyPath = filepath.Join(filepath.Dir(e.c.ShimPath), "net-copy")
	}
	if e.c.Resolv == nil {
		e.c.Resolv = []string{hostResolv, hostResolvedD}
	}
	if e.cgroup == "" {
		run, err := filepath.Abs(e.c.Run)
		if err != nil {
			return fmt.Errorf("name the cgroup: %w", err)
		}
		sum := sha256.Sum256([]byte(run))
		e.cgroup = filepath.Join(shim.DelegatedCgroup(), "vethloom-"+hex.EncodeToString(sum[:4]))
	}
	return nil
}

// sweep removes the network of a container that does not run. After a boot the
// records of its sandbox are there, but no trace of the container that had it.
func (e *settler) sweep(ctx context.Context, c *container) error {
	unlock, err := e.lock(ctx, c)
	if err != nil {
		return err
	}
	defer unlock()
	if rec := e.snapshot(c); isLive(rec.Status) {
		return nil
	}
	return e.leave(ctx, c, c.id)
}

// Close stops watching. Containers go on, and are found again by the next New.
func (e *Engine) Close() error {
	e.cancel()
	for _, c := range e.all() {
		e.mu.Lock()
		stop := c.release
		e.mu.Unlock()
		if stop != nil {
			stop()
		}
	}
	e.tasks.Wait()
	if e.running() > 0 {
		return nil
	}
	if err := shim.RemoveCgroup(e.cgroup); err != nil {
		return fmt.Errorf("remove the engine's cgroup: %w", err)
	}
	return nil
}

func (e *records) running() int {
	n := 0
	for _, c := range e.all() {
		if isLive(e.snapshot(c).Status) {
			n++
		}
	}
	return n
}

func isLive(s Status) bool { return s == Running || s == Paused }

func (e *records) containersDir() string { return filepath.Join(e.c.Root, "containers") }
func (e *records) runDir() string        { return filepath.Join(e.c.Run, "containers") }

func (e *records) all() []*container {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]*container, 0, len(e.containers))
	for _, c := range e.containers {
		out = append(out, c)
	}
	return out
}

func (e *records) emit(c *container, action string, attributes map[string]string) {
	rec := e.snapshot(c)
	all := map[string]string{}
	maps.Copy(all, rec.Spec.Labels) // by which programs find the events of what they have made
	all["name"], all["image"] = rec.Spec.Name, rec.Spec.Image
	maps.Copy(all, attributes)
	e.c.Events(Event{Time: time.Now(), Action: action, ID: c.id, Attributes: all})
}

// background runs something that Close waits for.
func (e *records) background(what string, c *container, f func(context.Context) error) {
	e.tasks.Go(func() {
		if err := f(context.WithoutCancel(e.life)); err != nil {
			e.log.Error(what, "container", c.id, "error", err)
		}
	})
}

// Settle compares a container's record with what is, and moves it on: to
// running when its supervisor lives, to exited when it has ended, to nothing
// when it was to be removed. It is the one way a container's state changes
// other than by a successful start.
func (e *settler) Settle(ctx context.Context, id string) error {
	e.mu.Lock()
	c := e.containers[id]
	e.mu.Unlock()
	if c == nil {
		return notFound(id)
	}
	unlock, err := e.lock(ctx, c)
	if err != nil {
		return err
	}
	defer unlock()
	return e.settle(ctx, c)
}

// sickTime is between two looks at a supervisor that does not answer.
const sickTime = 10 * time.Second

// settleLater settles a container whose supervisor does not answer, once it does.
func (e *settler) settleLater(id string) {
	again := time.NewTicker(sickTime)
	defer again.Stop()
	for {
		select {
		case <-again.C:
		case <-e.life.Done():
			return
		}
		if err := e.Settle(e.life, id); !errors.Is(err, shim.ErrNoAnswer) {
			if err != nil && !errors.Is(err, cnm.ErrNotFound) && e.life.Err() == nil {
				e.log.Error("settle a container", "container", id, "error", err)
			}
			return
		}
	}
}

var errGone = errors.New("the container is being removed")
