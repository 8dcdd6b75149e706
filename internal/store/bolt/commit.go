package bolt

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"

	"go.etcd.io/bbolt"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/store"
)

// op is one commit in the queue.
type op struct {
	writes []cnm.Write
	done   bool
	err    error
}

// change is a raw value before it was written over; nil: there was none.
type change struct{ key, before []byte }

// commit queues the writes and waits for their turn. The caller whose turn it is
// takes the whole queue into one transaction: a lone commit waits for nothing, and what
// queues up behind a flush shares the next one.
func (f *file) commit(writes []cnm.Write) error {
	o := &op{writes: writes}
	f.queueMu.Lock()
	f.queue = append(f.queue, o)
	f.queueMu.Unlock()

	f.writeMu.Lock()
	defer f.writeMu.Unlock()
	if o.done {
		return o.err
	}
	f.queueMu.Lock()
	batch := f.queue
	f.queue = nil
	f.queueMu.Unlock()
	f.run(batch)
	return o.err
}

// run commits a batch. When the whole of it fails, each is tried alone, so
// that a commit too large for the disk fails by itself.
func (f *file) run(batch []*op) {
	applied, err := f.transact(batch)
	if err != nil && len(batch) > 1 && f.failed == nil {
		for _, o := range batch {
			f.run([]*op{o})
		}
		return
	}
	for _, o := range batch {
		o.done = true
		if err != nil {
			o.err = err
		}
	}
	if err == nil && applied {
		f.good.touch()
	}
}

// transact runs the batch in one transaction. Conflicts are errors of their
// own op; an error that is returned is everybody's.
func (f *file) transact(batch []*op) (applied bool, err error) {
	if f.failed != nil {
		return false, f.failed
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			f.failed = fmt.Errorf("%s: the file was damaged while it was in use (%v); restart netd, which "+
				"restores the last good copy", f.path, r)
			err = f.failed
		}
	}()
	tx, err := f.db.Begin(true)
	if err != nil {
		return false, f.explain(err)
	}
	id := tx.ID()
	b := tx.Bucket([]byte(bucketRecords))
	changes, err := f.apply(b, batch)
	if err != nil || len(changes) == 0 {
		return false, errors.Join(err, tx.Rollback())
	}
	if err := tx.Commit(); err != nil {
		f.undo = nil
		if f.visible(id) {
			f.undo = changes
		}
		return false, f.explain(err)
	}
	f.undo = nil
	return true, nil
}

// visible reports whether a transaction that failed can be seen nevertheless:
// its last page was written but not flushed, and the map shows it.
func (f *file) visible(id int) bool {
	tx, err := f.db.Begin(false)
	if err != nil {
		return false
	}
	now := tx.ID()
	return tx.Rollback() == nil && now >= id
}

// apply takes back what must be, then writes the ops whose revisions fit.
func (f *file) apply(b *bbolt.Bucket, batch []*op) ([]change, error) {
	var changes []change
	write := func(key, value []byte) error {
		changes = append(changes, change{key, append([]byte(nil), b.Get(key)...)})
		if value == nil {
			return b.Delete(key)
		}
		return b.Put(key, value)
	}
	for i := len(f.undo) - 1; i >= 0; i-- {
		c := f.undo[i]
		if len(c.before) == 0 {
			c.before = nil
		}
		if err := write(c.key, c.before); err != nil {
			return nil, fmt.Errorf("write %s: %w", f.path, err)
		}
	}
	for _, o := range batch {
		if o.err = check(b, o.writes); o.err != nil {
			continue
		}
		revision, err := b.NextSequence()
		if err != nil {
			return nil, fmt.Errorf("write %s: %w", f.path, err)
		}
		for _, w := range o.writes {
			key := recordKey(w.Key)
			var value []byte
			if w.Value != nil {
				value = encodeRecord(key, w.Value, revision)
			}
			if err := write(key, value); err != nil {
				return nil, fmt.Errorf("write %s: %w", f.path, err)
			}
		}
	}
	return changes, nil
}

func check(b *bbolt.Bucket, writes []cnm.Write) error {
	for _, w := range writes {
		if have := revisionOf(b.Get(recordKey(w.Key))); have != w.Revision {
			return store.Conflict(w, have)
		}
	}
	return nil
}

// explain says which file could not be written and what to do.
func (f *file) explain(err error) error {
	for _, full := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT} {
		// bbolt flattens some errors into text.
		if errors.Is(err, full) || strings.Contains(err.Error(), full.Error()) {
			return &cnm.Error{
				Kind: cnm.ErrExhausted, Reason: "write " + f.path, Cause: err,
				Remedy: fmt.Sprintf("nothing was changed; make room on the file system of %s and try again",
					filepath.Dir(f.path)),
			}
		}
	}
	for _, broken := range []syscall.Errno{syscall.EIO, syscall.EROFS} {
		if errors.Is(err, broken) || strings.Contains(err.Error(), broken.Error()) {
			return fmt.Errorf("write %s: %w; nothing was changed; check the disk (dmesg) and try again", f.path, err)
		}
	}
	return fmt.Errorf("%s: %w", f.path, err)
}
