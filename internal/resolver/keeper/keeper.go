package keeper

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/vethloom/vethloom/internal/descriptor"
	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/internal/resolver/control"
	"github.com/vethloom/vethloom/plan"
)

// Config is what a [Keeper] works with.
type Config struct {
	Run    string   // the directory of the control socket
	Path   string   // of net-resolver
	Build  string   // of this program; a resolver of another one is replaced
	Resolv []string // the files that name the host's servers
	Log    *slog.Logger
	Pause  time.Duration // between two looks at whether the process is there; 0: 5 s
}

// Keeper has the names and sockets that there are, and a process that answers. Its methods may be called concurrently.
type Keeper struct {
	cfg  Config
	stop context.CancelFunc
	done chan struct{}

	mu      sync.Mutex
	zones   map[string]plan.NameZone
	members map[string]plan.NameMember
	servers map[string]served
	conn    *descriptor.Conn // nil while there is no process
	posted  int              // requests that it has not answered yet, and that nobody waits for
	trouble error            // why there is none
}

var _ kern.NameHost = (*Keeper)(nil)

type served struct {
	plan.NameServer
	control.Sockets
}

// How long an answer of the process may take, and how long a process is waited for that has just been started.
const (
	answerTime = 2 * time.Second
	startTime  = 5 * time.Second
)

// How often a process is looked at that nobody has asked for anything, and how long it may take to say that it is
// there.
const (
	lookPause = 5 * time.Second
	lookTime  = 4 * time.Second
)

// Limits of what a process may say that it has. It has read what strangers sent.
const (
	maxNames   = 1 << 20
	maxServers = 1 << 15
	maxTold    = 256 << 20 // bytes
)

// Open takes up the process that there is, or starts one. From then on there is always one, until Close.
func Open(cfg Config) *Keeper {
	k := &Keeper{cfg: cfg, done: make(chan struct{}), zones: map[string]plan.NameZone{},
		members: map[string]plan.NameMember{}, servers: map[string]served{}}
	ctx, stop := context.WithCancel(context.Background())
	k.stop = stop
	life := k.adopt()
	go k.watch(ctx, life)
	return k
}

func (k *Keeper) socket() string { return filepath.Join(k.cfg.Run, "resolver.sock") }

// Close leaves the process alone, unless it serves no sandbox: then nobody needs it.
func (k *Keeper) Close() error {
	k.stop()
	k.mu.Lock()
	needed := false
	for _, s := range k.servers {
		needed = needed || s.NS != ""
	}
	if k.conn != nil && !needed {
		if k.ask(control.Request{Quit: true}) == nil { // it finds out by itself too
			_, _ = k.conn.Receive(&control.Answer{}) // fails when its sockets are closed
		}
		_ = os.Remove(k.socket())
		_ = os.Remove(k.pidFile())
	}
	k.drop(nil)
	k.mu.Unlock()
	<-k.done
	for _, s := range k.servers {
		s.Close()
	}
	return nil
}

// Trouble is why nobody answers now, or nil.
func (k *Keeper) Trouble() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.trouble
}

// watch has another process go on when one ends.
func (k *Keeper) watch(ctx context.Context, life *descriptor.Conn) {
	defer close(k.done)
	wait := newBackoff()
	for {
		if life != nil {
			why := k.await(ctx, life)
			if ctx.Err() != nil {
				return
			}
			k.mu.Lock()
			k.drop(why)
			k.kill()
			k.mu.Unlock()
			k.cfg.Log.Warn("net-resolver is started again", "reason", why)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait.next()):
		}
		life = k.begin()
	}
}

// await returns when the process at the other end of a connection is gone, hangs, or says what it was not asked, or
// when the context is done.
func (k *Keeper) await(ctx context.Context, life *descriptor.Conn) error {
	stop := context.AfterFunc(ctx, func() { life.Close() })
	defer stop()
	defer life.Close()
	pause := cmp.Or(k.cfg.Pause, lookPause)
	for {
		_, err := k.hear(life, pause)
		switch {
		case err == nil:
			return errors.New("net-resolver says what it was not asked")
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return errors.New("net-resolver has ended")
		}
		err = life.SetDeadline(time.Now().Add(lookTime))
		if err == nil {
			err = life.Send(control.Request{Hello: &control.Hello{Version: control.Version, Build: k.cfg.Build}})
		}
		a, heard := k.hear(life, lookTime)
		if err = errors.Join(err, heard); err != nil || a.Hello == nil {
			return fmt.Errorf("net-resolver does not say that it is there: %w", err)
		}
	}
}

// hear reads what the process says within some time.
func (k *Keeper) hear(life *descriptor.Conn, within time.Duration) (a control.Answer, err error) {
	if err := life.SetDeadline(time.Now().Add(within)); err != nil {
		return a, err
	}
	all, err := life.Receive(&a)
	descriptor.Close(all)
	return a, err
}

// backoff is how long to wait before a process is started again: not at all, unless they end soon after each other.
type backoff struct {
	last  time.Time
	delay time.Duration
}

func newBackoff() *backoff { return &backoff{} }

func (b *backoff) next() time.Duration {
	now := time.Now()
	if now.Sub(b.last) > 10*time.Second {
		b.delay = 0
	} else {
		b.delay = min(max(2*b.delay, 50*time.Millisecond), time.Second)
	}
	b.last = now
	return b.delay
}

// drop forgets the process. The caller holds mu.
func (k *Keeper) drop(why error) {
	if k.conn != nil {
		k.conn.Close()
		k.conn = nil
	}
	k.posted, k.trouble = 0, why
}

// call asks the process, if there is one. Without one nothing is lost: the next one is told everything. One that does
// not answer is ended. The caller holds mu.
func (k *Keeper) call(q control.Request) error {
	if k.conn == nil {
		return nil
	}
	return k.settle(k.ask(q))
}

// maxPosted bounds the requests whose answers are still to come.
const maxPosted = 64

// post is call without waiting for the answer: on a busy machine the process may not run for some time. What comes
// after is answered after it. The caller holds mu.
func (k *Keeper) post(q control.Request, with ...descriptor.Descriptor) error {
	if k.conn == nil {
		return nil
	}
	if k.posted >= maxPosted {
		return k.settle(k.ask(q, with...))
	}
	err := k.conn.SetDeadline(time.Now().Add(answerTime))
	if err == nil {
		err = k.conn.Send(q, with...)
	}
	if err == nil {
		k.posted++
	}
	return k.settle(err)
}

// settle ends a process that did not answer, and hands on what one has told. The caller holds mu.
func (k *Keeper) settle(err error) error {
	if refused, told := errors.AsType[*refusal](err); told {
		return refused
	}
	if err == nil {
		return nil
	}
	k.cfg.Log.Warn("net-resolver does not answer; ending it", "error", err)
	k.drop(fmt.Errorf("net-resolver does not answer: %w", err))
	k.kill()
	return nil
}

// refusal is an error that the process told.
type refusal struct{ text string }

func (r *refusal) Error() string { return fmt.Sprintf("net-resolver says %.200q", r.text) }

// ask sends a request and reads its answer. The caller holds mu.
func (k *Keeper) ask(q control.Request, with ...descriptor.Descriptor) error {
	if err := k.conn.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	if err := k.conn.Send(q, with...); err != nil {
		return err
	}
	if err := k.catchUp(); err != nil {
		return err
	}
	return k.answer()
}

// catchUp reads the answers to what was posted. The caller holds mu.
func (k *Keeper) catchUp() error {
	for ; k.posted > 0; k.posted-- {
		err := k.answer()
		if _, told := errors.AsType[*refusal](err); !told && err != nil {
			return err
		}
		if err != nil {
			k.cfg.Log.Warn("net-resolver has refused something", "error", err)
		}
	}
	return nil
}

// Settled returns once the process knows what there was to know before. Who starts a program in a sandbox waits for it
// at the last moment: until then the process had time to run. Without a process there is nothing to wait for.
func (k *Keeper) Settled() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conn == nil || k.posted == 0 {
		return
	}
	err := k.conn.SetDeadline(time.Now().Add(answerTime))
	if err == nil {
		err = k.catchUp()
	}
	_ = k.settle(err) // it ends the process: nothing is refused here
}

// answer reads one. The caller holds mu.
func (k *Keeper) answer() error {
	var a control.Answer
	all, err := k.conn.Receive(&a)
	descriptor.Close(all)
	switch {
	case err != nil:
		return err
	case a.Error != "":
		return &refusal{a.Error}
	case !a.Done:
		return errors.New("its answer is to another question")
	}
	return nil
}

// Names implements [kern.NameHost]. [Keeper.Settled] says when the process knows them.
func (k *Keeper) Names(_ context.Context, ops []plan.Op) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for part := range slices.Chunk(ops, control.MaxObjects) {
		var n control.Names
		for _, op := range part {
			if err := k.name(&n, op); err != nil {
				return err
			}
		}
		if err := k.post(control.Request{Names: &n}); err != nil {
			return err
		}
	}
	return nil
}

func (k *Keeper) name(n *control.Names, op plan.Op) error {
	gone := op.Verb == plan.Delete
	switch o := op.Object.(type) {
	case plan.NameZone:
		if gone {
			delete(k.zones, o.Key())
			n.GoneZones = append(n.GoneZones, o.ID)
			return nil
		}
		k.zones[o.Key()] = o
		n.Zones = append(n.Zones, o)
	case plan.NameMember:
		if gone {
			delete(k.members, o.Key())
			n.GoneMembers = append(n.GoneMembers, plan.NameMember{Zone: o.Zone, ID: o.ID})
			return nil
		}
		k.members[o.Key()] = o
		n.Members = append(n.Members, o)
	default:
		return fmt.Errorf("%s is no name", op.Object)
	}
	return nil
}

// Serve implements [kern.NameHost].
func (k *Keeper) Serve(_ context.Context, n plan.NameServer, socks control.Sockets) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if old, ok := k.servers[n.Key()]; ok {
		old.Close()
	}
	k.servers[n.Key()] = served{n, socks}
	return k.post(control.Request{Serve: &n}, socks.All()...) // what is asked meanwhile waits in the sockets
}

// Stop implements [kern.NameHost].
func (k *Keeper) Stop(_ context.Context, key string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	old, ok := k.servers[key]
	if !ok {
		return nil
	}
	delete(k.servers, key)
	old.Close()
	if old.NS == "" {
		return k.call(control.Request{Stop: key}) // its port is wanted for the next one
	}
	return k.post(control.Request{Stop: key})
}

// List implements [kern.NameHost].
func (k *Keeper) List() ([]plan.NameZone, []plan.NameMember, []control.Held) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var servers []control.Held
	for _, s := range k.servers {
		servers = append(servers, control.Held{NameServer: s.NameServer, UDP: s.UDP})
	}
	return slices.Collect(maps.Values(k.zones)), slices.Collect(maps.Values(k.members)), servers
}

// Exists reports whether a program is there to be started.
func Exists(path string) error {
	st, err := os.Stat(path)
	if err == nil && (!st.Mode().IsRegular() || st.Mode()&0o111 == 0) {
		err = errors.New("it is no program")
	}
	return err
}
