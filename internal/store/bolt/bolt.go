package bolt

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/store"
)

// Config says where a store keeps its files. StateFile, RuntimeFile and BootID are
// required.
type Config struct {
	StateFile   string        // <root>/state.db: durable kinds
	RuntimeFile string        // <run>/runtime.db: the other kinds
	BootID      string        // of the running kernel, see random(4): /proc/sys/kernel/random/boot_id
	LockTimeout time.Duration // how long to wait for another process to let go of the files; 0: 5 s
	CopyDelay   time.Duration // how long after a commit the good copy is written, at the latest; 0: 2 s
	Log         *slog.Logger  // nil: nothing is logged
	Now         func() time.Time
}

// Store implements [cnm.Store]. It is safe for concurrent use; the caller closes it.
type Store struct {
	watch   store.Watchers
	state   *file
	runtime *file
	notices []string

	close sync.Once
	err   error
}

// Open opens both files and creates what is missing. Damaged files are moved aside and
// replaced, which is no error: see [Store.Notices].
func Open(ctx context.Context, c Config) (*Store, error) {
	if c.BootID == "" {
		return nil, &cnm.Error{Kind: cnm.ErrInvalid, Field: "boot ID", Reason: "empty",
			Remedy: "read it from /proc/sys/kernel/random/boot_id"}
	}
	if c.LockTimeout == 0 {
		c.LockTimeout = 5 * time.Second
	}
	if c.CopyDelay == 0 {
		c.CopyDelay = 2 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Store{}
	var err error
	if s.state, err = openFile(ctx, c, c.StateFile, ""); err != nil {
		return nil, err
	}
	if s.runtime, err = openFile(ctx, c, c.RuntimeFile, c.BootID); err != nil {
		return nil, errors.Join(err, s.state.shut())
	}
	s.notices = append(append(s.notices, s.state.notices...), s.runtime.notices...)
	for _, n := range s.notices {
		c.Log.Error(n)
	}
	return s, nil
}

// Notices tells, in sentences for the operator, what Open found damaged and what
// it did about it. Empty when all was well.
func (s *Store) Notices() []string { return append([]string(nil), s.notices...) }

// Close writes the good copies and closes the files. Commits after it fail.
func (s *Store) Close() error {
	s.close.Do(func() { s.err = errors.Join(s.state.shut(), s.runtime.shut()) })
	return s.err
}

func (s *Store) file(k cnm.Kind) *file {
	if k.Durable() {
		return s.state
	}
	return s.runtime
}

// Get implements [cnm.Store].
func (s *Store) Get(ctx context.Context, k cnm.Key) (cnm.Record, error) {
	if err := ctx.Err(); err != nil {
		return cnm.Record{}, err
	}
	return s.file(k.Kind).get(k)
}

// List implements [cnm.Store].
func (s *Store) List(ctx context.Context, kind cnm.Kind) ([]cnm.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.file(kind).find(kind, "")
}

// Find implements [cnm.Store].
func (s *Store) Find(ctx context.Context, kind cnm.Kind, prefix string) ([]cnm.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.file(kind).find(kind, prefix)
}

// Commit implements [cnm.Store]. Writes to a full disk fail with [cnm.ErrExhausted],
// change nothing, and work again once there is space.
func (s *Store) Commit(ctx context.Context, writes ...cnm.Write) error {
	if err := store.Check(writes); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(writes) == 0 {
		return nil
	}
	if err := s.file(writes[0].Key.Kind).commit(writes); err != nil {
		return err
	}
	s.watch.Wake(writes)
	return nil
}

// Watch implements [cnm.Store].
func (s *Store) Watch(ctx context.Context, kind cnm.Kind) <-chan struct{} {
	return s.watch.Add(ctx, kind)
}
