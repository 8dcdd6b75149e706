package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/shim"
)

// record is a container as it is in the store.
type record struct {
	Container
	NetNS  string      `json:"netns,omitempty"`  // path, while it runs
	IDMap  *shim.IDMap `json:"idMap,omitempty"`  // with UserNS auto: its own for life
	Anonym []string    `json:"anonym,omitempty"` // volumes made for it alone
	Held   bool        `json:"held,omitempty"`   // frozen while its files are read, see Hold

	// Updating: its limits are being changed to those of the record.
	Updating bool `json:"updating,omitempty"`

	// Stopped: somebody has ended it, since it was started last; its restart policy keeps still.
	Stopped bool `json:"stopped,omitempty"`

	// Addrs are the addresses it had the last time, by network ID: it has them again where they are free.
	Addrs map[string][]netip.Addr `json:"addrs,omitempty"`
}

// container is one container in memory, which is what the engine goes by; the
// store follows.
type container struct {
	id  string
	dir string // durable
	run string // while it runs
	op  chan struct{}

	saving sync.Mutex // one save at a time, each of the latest

	// Guarded by the engine's mutex.
	rec     record
	end     *ending       // of the run under way, of the next while it waits for its restart, else of the last
	gone    chan struct{} // closed once it is removed
	next    *ending       // of the next run, where somebody waits for that; nil: nobody does
	over    chan struct{} // closed while it neither runs nor waits for its restart
	retry   func()        // gives up the wait for its restart; nil: there is none
	delay   time.Duration // of that wait
	running time.Time     // since when it is watched
	keep    int           // how many restart it by hand: it is not removed meanwhile
	checked *ending       // the run whose health is looked after
	watched bool          // someone waits for its end
	release func()        // makes that one give up
	sick    time.Time     // when it could last not be settled, because its supervisor does not answer for example
	trouble error         // why
	begun   time.Time     // of a start under way
	abort   context.CancelCauseFunc
	joining []*nextStart // those who wait for a start by somebody else
}

func (e *records) newContainer(rec record) *container {
	over, done := make(chan struct{}), make(chan struct{})
	if !isLive(rec.Status) && rec.Status != Restarting {
		close(over)
		close(done)
	}
	return &container{
		id: rec.ID, dir: filepath.Join(e.containersDir(), rec.ID), run: filepath.Join(e.runDir(), rec.ID),
		op: make(chan struct{}, 1), rec: rec, over: over, gone: make(chan struct{}),
		end: &ending{done: done, status: exitStatus(rec)},
	}
}

// busyTime bounds the wait for somebody else who moves a container through its life.
const busyTime = time.Minute

// lock makes the caller the only one to move the container through its life.
func (e *records) lock(ctx context.Context, c *container) (unlock func(), err error) {
	return e.lockWithin(ctx, c, busyTime)
}

func (e *records) lockWithin(ctx context.Context, c *container, bound time.Duration) (unlock func(), err error) {
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case c.op <- struct{}{}:
		return func() { <-c.op }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timer.C:
		return nil, e.busy(c, bound)
	}
}

// busy tells what goes on with a container.
func (e *records) busy(c *container, bound time.Duration) error {
	e.mu.Lock()
	begun, name := c.begun, c.rec.Spec.Name
	e.mu.Unlock()
	reason := "it is being stopped, removed or looked after"
	if !begun.IsZero() {
		reason = "it is being started"
	}
	return &cnm.Error{Kind: cnm.ErrInUse, Field: "container", Value: name,
		Reason: fmt.Sprintf("%s, and after %s that has not come to an end%s", reason, bound, e.supervisor(c)),
		Remedy: "try again later; 'net rm -f' gives up a start"}
}

// supervisor names a container's supervisor in errors.
func (e *records) supervisor(c *container) string {
	pid, err := shim.FindSupervisor(c.shimLog())
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (its supervisor, net-shim, is process %d in state %s)", pid, shim.ProcessState(pid))
}

func (c *container) shimLog() string { return filepath.Join(c.dir, "shim.log") }

func (c *container) client() shim.Client { return shim.Client{Dir: c.run} }

func (c *container) key() cnm.Key { return cnm.Key{Kind: cnm.KindContainer, ID: c.id} }

func (e *records) snapshot(c *container) record {
	e.mu.Lock()
	defer e.mu.Unlock()
	return c.rec
}

// change edits the record in memory. Slices and maps in it are replaced, never
// written to: snapshots share them.
func (e *records) change(c *container, edit func(*record)) record {
	e.mu.Lock()
	defer e.mu.Unlock()
	edit(&c.rec)
	return c.rec
}

// save writes the latest record to the store.
func (e *records) save(ctx context.Context, c *container) error {
	c.saving.Lock()
	defer c.saving.Unlock()
	e.mu.Lock()
	rec := c.rec
	known := e.containers[c.id] == c
	e.mu.Unlock()
	if !known {
		return nil // removed meanwhile
	}
	return e.put(ctx, c, &rec)
}

// put writes a record, or with nil deletes it.
func (e *records) put(ctx context.Context, c *container, rec *record) error {
	var value []byte
	if rec != nil {
		var err error
		if value, err = json.Marshal(rec); err != nil {
			return fmt.Errorf("encode container %s: %w", cnm.Short(c.id), err)
		}
	}
	revision := uint64(0)
	old, err := e.c.Store.Get(ctx, c.key())
	switch {
	case err == nil:
		revision = old.Revision
	case !errors.Is(err, cnm.ErrNotFound):
		return fmt.Errorf("save container %s: %w", cnm.Short(c.id), err)
	case rec == nil:
		return nil
	}
	if err := e.c.Store.Commit(ctx, cnm.Write{Key: c.key(), Value: value, Revision: revision}); err != nil {
		return fmt.Errorf("save container %s: %w", cnm.Short(c.id), err)
	}
	return nil
}

// load reads every record. Of two with the same name the older is about to be
// removed: its name was free again before its record was gone.
func (e *settler) load(ctx context.Context) error {
	records, err := e.c.Store.List(ctx, cnm.KindContainer)
	if err != nil {
		return fmt.Errorf("load containers: %w", err)
	}
	for _, r := range records {
		var rec record
		if err := json.Unmarshal(r.Value, &rec); err != nil {
			return fmt.Errorf("decode container %s: %w", r.Key.ID, err)
		}
		c := e.newContainer(rec)
		e.containers[rec.ID] = c
		// What may be alive is taken to be so until it is settled, lest another's
		// end removes the sandbox both are in.
		if _, err := os.Stat(c.run); err == nil {
			if err := e.claim(ctx, rec); err != nil {
				return err
			}
		}
		if other := e.containers[e.names[rec.Spec.Name]]; other == nil || other.rec.Created.Before(rec.Created) {
			e.names[rec.Spec.Name] = rec.ID
		}
	}
	return nil
}

// find resolves a name, an ID, or the unambiguous beginning of one.
func (e *records) find(ref string) (*container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ref = strings.TrimPrefix(ref, "/") // as inspect shows names
	if c := e.containers[e.names[ref]]; c != nil {
		return c, nil
	}
	if c := e.containers[ref]; c != nil {
		return c, nil
	}
	var found []string
	if ref != "" {
		for id := range e.containers {
			if cnm.Begins(id, ref) {
				found = append(found, id)
			}
		}
	}
	switch len(found) {
	case 0:
		return nil, notFound(ref)
	case 1:
		return e.containers[found[0]], nil
	}
	slices.Sort(found)
	return nil, invalid("container", ref, fmt.Sprintf("%d containers have an ID that begins so", len(found)),
		"give more digits, or a name")
}

// glance finds a container for somebody who only looks: it waits for nobody. While the container is moved through its
// life, or its supervisor does not answer, the record is what was known last.
func (e *settler) glance(ctx context.Context, ref string) (*container, record, error) {
	c, err := e.find(ref)
	if err != nil {
		return nil, record{}, err
	}
	e.mu.Lock()
	settle := !c.watched && time.Since(c.sick) > sickTime
	e.mu.Unlock()
	if !settle {
		return c, e.snapshot(c), nil
	}
	select {
	case c.op <- struct{}{}:
	default:
		return c, e.snapshot(c), nil
	}
	err = e.settle(ctx, c)
	<-c.op
	if errors.Is(err, cnm.ErrNotFound) || ctx.Err() != nil {
		return nil, record{}, err
	}
	return c, e.snapshot(c), nil // what else is in the way is a part of what is shown
}

// settled finds a container and makes sure that its record is true.
func (e *settler) settled(ctx context.Context, ref string) (*container, record, error) {
	c, err := e.find(ref)
	if err != nil {
		return nil, record{}, err
	}
	e.mu.Lock()
	watched := c.watched
	e.mu.Unlock()
	if !watched {
		if err := e.Settle(ctx, c.id); err != nil {
			return nil, record{}, err
		}
	}
	return c, e.snapshot(c), nil
}
