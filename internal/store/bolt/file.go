package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/vethloom/vethloom/cnm"
)

// mapSize is how much address space a file gets at once. Growing the map stops
// readers; the space costs nothing as long as it is not used.
const mapSize = 64 << 20

// allocSize is what a file grows by.
const allocSize = 1 << 20

// file is one bbolt file with its lock, its group commit and its good copy.
type file struct {
	path    string
	boot    string // "" for the state file
	log     *slog.Logger
	now     func() time.Time
	lock    *os.File
	db      *bbolt.DB
	notices []string
	good    *copier

	queueMu sync.Mutex
	queue   []*op

	writeMu sync.Mutex // held by the committer whose turn it is
	undo    []change   // what a failed flush has left visible and must be taken back first
	failed  error      // not nil: the file cannot be used any more
}

func (f *file) durable() bool { return f.boot == "" }

func openFile(ctx context.Context, c Config, path, boot string) (_ *file, err error) {
	f := &file{path: path, boot: boot, log: c.Log, now: c.Now}
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if f.lock, err = lockDir(ctx, path, c.LockTimeout); err != nil {
		return nil, err
	}
	err = f.recoverFile()
	if err == nil {
		err = f.open()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open: %w", f.explain(err)), f.lock.Close())
	}
	f.good = startCopier(f, c.CopyDelay)
	return f, nil
}

// open opens the checked file with bbolt.
func (f *file) open() (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer guard(&err)
	f.db, err = bbolt.Open(f.path, 0o600, &bbolt.Options{
		Timeout:         time.Second, // our own lock is held: nobody else can have it for long
		FreelistType:    bbolt.FreelistMapType,
		InitialMmapSize: mapSize,
		NoSync:          !f.durable(),
		NoGrowSync:      !f.durable(),
		NoStatistics:    true,
	})
	if err != nil {
		return err
	}
	f.db.AllocSize = allocSize
	err = f.prepare()
	if err != nil {
		err = errors.Join(err, f.db.Close())
	}
	return err
}

// prepare makes the buckets of a new file.
func (f *file) prepare() error {
	ready := false
	err := f.db.View(func(tx *bbolt.Tx) error {
		meta := tx.Bucket([]byte(bucketMeta))
		ready = meta != nil && string(meta.Get([]byte(keyFormat))) == format
		return nil
	})
	if ready || err != nil {
		return err
	}
	return f.db.Update(func(tx *bbolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists([]byte(bucketMeta))
		if err != nil {
			return err
		}
		if _, err := tx.CreateBucketIfNotExists([]byte(bucketRecords)); err != nil {
			return err
		}
		if err := meta.Put([]byte(keyBoot), []byte(f.boot)); err != nil {
			return err
		}
		return meta.Put([]byte(keyFormat), []byte(format))
	})
}

// shut writes the good copy and lets go of the file.
func (f *file) shut() error {
	err := f.good.stop()
	f.writeMu.Lock()
	defer f.writeMu.Unlock()
	if f.failed == nil {
		f.failed = fmt.Errorf("%s is closed", f.path)
		err = errors.Join(err, f.db.Close())
	}
	return errors.Join(err, f.lock.Close())
}

// guard turns a fault in mapped memory (the file was cut short under us, or the disk
// cannot read it) and a failed assertion of bbolt into an error.
func guard(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("the file is damaged: %v", r)
	}
}

// view runs a reader.
func (f *file) view(read func(*bbolt.Bucket) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer guard(&err)
	return f.db.View(func(tx *bbolt.Tx) error { return read(tx.Bucket([]byte(bucketRecords))) })
}

func (f *file) get(k cnm.Key) (r cnm.Record, err error) {
	key := recordKey(k)
	err = f.view(func(b *bbolt.Bucket) error {
		v := b.Get(key)
		if v == nil {
			return cnm.ErrNotFound
		}
		r, err = decodeRecord(key, v)
		return err
	})
	if err != nil {
		return cnm.Record{}, fmt.Errorf("get %s %q: %w", k.Kind, k.ID, err)
	}
	return r, nil
}

func (f *file) find(kind cnm.Kind, start string) ([]cnm.Record, error) {
	prefix := recordKey(cnm.Key{Kind: kind, ID: start})
	out := []cnm.Record{}
	err := f.view(func(b *bbolt.Bucket) error {
		c := b.Cursor()
		for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
			r, err := decodeRecord(k, v)
			if err != nil {
				return err
			}
			out = append(out, r)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %s records in %s: %w", kind, f.path, err)
	}
	return out, nil
}
