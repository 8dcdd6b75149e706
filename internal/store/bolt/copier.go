package bolt

import (
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
)

// copier writes the good copy of a file some time after it has changed, and
// when it is stopped. Changes that come meanwhile share one copy.
type copier struct {
	f      *file
	delay  time.Duration
	change chan struct{} // holds an item while there are changes
	quit   chan struct{}
	done   chan error
}

func startCopier(f *file, delay time.Duration) *copier {
	c := &copier{f: f, delay: delay, change: make(chan struct{}, 1), quit: make(chan struct{}),
		done: make(chan error, 1)}
	go c.run()
	return c
}

// touch tells that the file has changed.
func (c *copier) touch() {
	select {
	case c.change <- struct{}{}:
	default:
	}
}

// stop writes the last copy and waits for it.
func (c *copier) stop() error {
	close(c.quit)
	return <-c.done
}

func (c *copier) run() {
	timer := time.NewTimer(0)
	if !timer.Stop() {
		<-timer.C
	}
	defer timer.Stop()
	dirty := false
	for {
		select {
		case <-c.change:
			dirty = true
			timer.Reset(c.delay)
			select {
			case <-timer.C:
			case <-c.quit:
				c.done <- c.f.copy()
				return
			}
			select { // what has come in meanwhile is in the copy too
			case <-c.change:
			default:
			}
			if err := c.f.copy(); err != nil {
				c.f.log.Warn("the good copy could not be written; the next change tries again", "error", err)
				continue
			}
			dirty = false
		case <-c.quit:
			select {
			case <-c.change:
				dirty = true
			default:
			}
			if dirty {
				c.done <- c.f.copy()
			} else {
				c.done <- nil
			}
			return
		}
	}
}

// copy replaces the good copy by what the file holds now, unless that turns out
// not to be good.
func (f *file) copy() (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer guard(&err)
	err = replace(f.goodPath(), f.durable(), func(w io.Writer) error {
		return f.db.View(func(tx *bbolt.Tx) error {
			_, err := tx.WriteTo(w)
			return err
		})
	}, func(path string) error {
		_, err := verify(path)
		return err
	})
	if err != nil {
		return fmt.Errorf("write the good copy: %w", f.explain(err))
	}
	return nil
}
