package handover

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os/exec"
	"sync"
	"time"

	"github.com/vethloom/vethloom/internal/descriptor"
)

const (
	// answerTime bounds each answer of a holder. Those that do not hang give one within milliseconds.
	answerTime = time.Second
	againTime  = 200 * time.Millisecond // between two holders, when one ends by itself
)

// Config is what a [Keeper] works with.
type Config struct {
	Path    string                      // of the socket that the next netd asks at
	Command func(path string) *exec.Cmd // runs [Run] with the connection at [ControlFD]
	Log     *slog.Logger
}

// Keeper is netd's side: what it is told to hold, a holder of the same has too, from the first item to the last. Its
// methods may be called concurrently. None of them waits for long, and none fails: without a holder all works as
// before, but the next netd has to open files of its own.
type Keeper struct {
	cfg  Config
	stop context.CancelFunc
	done chan struct{}
	wake chan struct{} // something is held by nobody else

	mu      sync.Mutex
	items   map[string]Item // with descriptors of its own
	holder  *process        // nil: none
	closed  bool
	trouble string // what was logged last
}

// New makes a Keeper of nothing. Close ends it.
func New(cfg Config) *Keeper {
	ctx, stop := context.WithCancel(context.Background())
	k := &Keeper{cfg: cfg, stop: stop, done: make(chan struct{}), wake: make(chan struct{}, 1),
		items: map[string]Item{}}
	go k.run(ctx)
	return k
}

// Close leaves the holder to the next netd, unless it has nothing.
func (k *Keeper) Close() error {
	k.stop()
	<-k.done
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	k.leave()
	for _, i := range k.items {
		descriptor.Close(i.Files)
	}
	clear(k.items)
	return nil
}

// leave ends the holder when it has nothing, and otherwise the connection to it. The caller holds mu.
func (k *Keeper) leave() {
	switch {
	case k.holder == nil:
	case len(k.items) == 0:
		k.holder.quit()
		k.holder = nil
	case k.closed:
		k.holder.conn.Close()
		k.holder = nil
	}
}

// run has another holder go on when one ends by itself.
func (k *Keeper) run(ctx context.Context) {
	defer close(k.done)
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(againTime):
		}
		k.mu.Lock()
		if k.holder == nil && len(k.items) > 0 {
			k.begin()
		}
		k.mu.Unlock()
	}
}

func (k *Keeper) again() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// begin starts a holder and hands it everything. The caller holds mu.
func (k *Keeper) begin() {
	p, err := start(k.cfg)
	if err == nil {
		k.holder = p
		go k.await(p)
		for _, i := range k.items {
			if err = p.ask(request{Put: &i}, i.Files...); err != nil {
				break
			}
		}
	}
	k.failed(err)
}

// await notices the end of a holder.
func (k *Keeper) await(p *process) {
	why := p.cmd.Wait()
	close(p.gone)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.holder != p { // it was to end
		return
	}
	k.holder = nil
	p.conn.Close()
	k.cfg.Log.Warn("the holder of open files has ended; starting another one", "err", why)
	k.again()
}

// failed ends a holder that does not do what it is there for, and tries again later. The caller holds mu.
func (k *Keeper) failed(err error) {
	if err == nil {
		k.trouble = ""
		return
	}
	if k.trouble != err.Error() {
		k.trouble = err.Error()
		k.cfg.Log.Error("open files are held by no other process: packets are lost when netd restarts", "err", err)
	}
	if p := k.holder; p != nil {
		k.holder = nil
		p.kill()
	}
	k.again()
}

// Hold holds further descriptors of open files, with a note, from now on, in place of what the key had.
func (k *Keeper) Hold(key string, note any, files ...descriptor.Descriptor) {
	text, err := encode(note)
	var own []descriptor.Descriptor
	if err == nil {
		own, err = duplicate(files)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil || k.closed {
		k.cfg.Log.Error("cannot hold open files over a restart", "key", key, "err", err)
		descriptor.Close(own)
		return
	}
	descriptor.Close(k.items[key].Files)
	i := Item{Key: key, Note: text, Files: own}
	k.items[key] = i
	if k.holder == nil {
		k.begin()
		return
	}
	k.failed(k.holder.ask(request{Put: &i}, own...))
}

// Note puts another note in the place of a key's. Without an item of this key it does nothing.
func (k *Keeper) Note(key string, note any) {
	text, err := encode(note)
	k.mu.Lock()
	defer k.mu.Unlock()
	i, ok := k.items[key]
	if !ok {
		return
	}
	if err != nil {
		k.cfg.Log.Error("cannot note what there is to know of open files", "key", key, "err", err)
		return
	}
	i.Note = text
	k.items[key] = i
	if k.holder != nil {
		k.failed(k.holder.ask(request{Put: &Item{Key: key, Note: text}}))
	}
}

// Drop gives the files of a key up: when it returns, the holder has closed them.
func (k *Keeper) Drop(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	i, ok := k.items[key]
	if !ok {
		return
	}
	descriptor.Close(i.Files)
	delete(k.items, key)
	if k.holder == nil {
		return
	}
	if len(k.items) == 0 {
		k.leave()
		return
	}
	k.failed(k.holder.ask(request{Drop: key}))
}

func encode(note any) (json.RawMessage, error) {
	text, err := json.Marshal(note)
	if err == nil && len(text) > MaxNote {
		err = fmt.Errorf("a note of %d bytes: at most %d are held", len(text), MaxNote)
	}
	return text, err
}

func duplicate(files []descriptor.Descriptor) (own []descriptor.Descriptor, err error) {
	if len(files) == 0 || len(files) > descriptor.MaxFiles {
		return nil, fmt.Errorf("%d files: 1 to %d are held together", len(files), descriptor.MaxFiles)
	}
	for _, f := range files {
		d, err := f.Duplicate()
		if err != nil {
			descriptor.Close(own)
			return nil, err
		}
		own = append(own, d)
	}
	return own, nil
}

// Resume takes over what the holder of an earlier netd has. What use refuses is given up; descriptors that it is called
// with are its own. Without such a holder, or when that does not answer, there is nothing to take over.
func (k *Keeper) Resume(use func(Item) error) {
	former, err := dial(k.cfg.Path)
	if err != nil {
		return // none, or none that can be spoken to
	}
	defer former.close()
	items, err := former.list()
	if err != nil {
		k.cfg.Log.Warn("the holder of an earlier netd's open files gives none; ending it", "err", err)
		former.kill()
		return
	}
	for _, i := range items {
		k.resume(i, use)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.items) > 0 {
		k.begin()
	}
	if err := former.quit(); err != nil {
		former.kill()
	}
}

// resume has an item before it is used: it may be dropped at once.
func (k *Keeper) resume(i Item, use func(Item) error) {
	k.mu.Lock()
	descriptor.Close(k.items[i.Key].Files)
	k.items[i.Key] = i
	given, err := duplicate(i.Files)
	k.mu.Unlock()
	if err == nil {
		err = use(Item{Key: i.Key, Note: i.Note, Files: given})
	}
	if err != nil {
		k.cfg.Log.Info("giving up open files of an earlier netd", "key", i.Key, "reason", err)
		k.Drop(i.Key)
	}
}
