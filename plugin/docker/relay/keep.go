package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Config is what a [Keeper] works with.
type Config struct {
	Path    string // where dockerd asks
	Netd    string // the socket that netd answers at
	Program string // path of net-relay
	Log     *slog.Logger
}

// Keeper has net-relay run. The socket is its own, and handed to each process: while there is none, callers wait in the
// socket's queue for the next.
type Keeper struct {
	cfg   Config
	place Place
	file  *os.File
	stop  context.CancelFunc
	done  chan struct{}

	mu      sync.Mutex
	trouble error // why dockerd is not answered
}

const (
	endTime  = 3 * time.Second        // a process may take to end, before it is killed
	pauseMin = 100 * time.Millisecond // between the end of a process and the next one, doubled while they end at once
	pauseMax = 5 * time.Second
	askPause = 5 * time.Second // between two looks at whether a process answers
	askTime  = 4 * time.Second // for its answer, before it is killed
)

// Trouble is why dockerd is not answered, or nil.
func (k *Keeper) Trouble() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.trouble
}

// note keeps why dockerd is not answered, and logs what is new.
func (k *Keeper) note(err error) {
	k.mu.Lock()
	before := k.trouble
	k.trouble = err
	k.mu.Unlock()
	if err != nil && (before == nil || before.Error() != err.Error()) {
		k.cfg.Log.Error("dockerd is not answered", "err", err)
	}
}

// Open takes the place of the relay that an earlier netd has left, and starts one of its own.
func Open(cfg Config) (*Keeper, error) {
	k := &Keeper{cfg: cfg, done: make(chan struct{})}
	if err := k.bind(); err != nil {
		return nil, err
	}
	first, err := k.start()
	if err != nil {
		return nil, errors.Join(err, k.file.Close(), os.Remove(cfg.Path))
	}
	ctx, stop := context.WithCancel(context.Background())
	k.stop = stop
	go k.run(ctx, first)
	return k, nil
}

// bind makes the socket, in the place of one that there was.
func (k *Keeper) bind() error {
	l, place, err := bind(k.cfg.Path)
	var file *os.File
	if err == nil {
		defer l.Close()
		file, err = l.File()
	}
	if err != nil {
		return fmt.Errorf("make dockerd's socket: %w", err)
	}
	if k.file != nil {
		_ = k.file.Close() // nobody can ask there any more
	}
	k.place, k.file = place, file
	return nil
}

// Close ends the relay, and removes the socket unless another netd has its own there.
func (k *Keeper) Close() error {
	k.stop()
	<-k.done
	var err error
	if now, e := placeOf(k.cfg.Path); e == nil && now == k.place {
		err = os.Remove(k.cfg.Path)
	}
	return errors.Join(err, k.file.Close())
}

// start starts a process. It has a session of its own and outlives netd.
func (k *Keeper) start() (*exec.Cmd, error) {
	cmd := exec.Command(k.cfg.Program, "--path", k.cfg.Path, "--place", k.place.String(), "--netd", k.cfg.Netd)
	cmd.Dir, cmd.Env, cmd.ExtraFiles = "/", []string{"GOMAXPROCS=2", "GOTRACEBACK=single"}, []*os.File{k.file}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start net-relay: %w", err)
	}
	return cmd, nil
}

// run has another process go on when one ends.
func (k *Keeper) run(ctx context.Context, cmd *exec.Cmd) {
	defer close(k.done)
	pause := pauseMin
	for {
		if cmd != nil {
			begin := time.Now()
			err := k.wait(ctx, cmd)
			if ctx.Err() != nil {
				return
			}
			k.cfg.Log.Warn("net-relay has ended; starting it again", "err", err)
			if time.Since(begin) > pauseMax {
				pause = pauseMin
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, pauseMax)
		var err error
		cmd, err = k.again()
		k.note(err)
	}
}

// errTaken says that somebody else is asked now.
var errTaken = errors.New("somebody else has put another file in the place of the socket, such as a second netd")

// again starts another process, at another socket when somebody has removed that.
func (k *Keeper) again() (*exec.Cmd, error) {
	switch now, err := placeOf(k.cfg.Path); {
	case errors.Is(err, os.ErrNotExist):
		if err := k.bind(); err != nil {
			return nil, err
		}
	case err == nil && now != k.place:
		return nil, fmt.Errorf("%s: %w: remove it, or give this netd another with --docker-plugin", k.cfg.Path,
			errTaken)
	}
	return k.start()
}

// wait waits for the end of a process, which it brings about when the context ends, and when the process does not
// answer any more.
func (k *Keeper) wait(ctx context.Context, cmd *exec.Cmd) error {
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	look := time.NewTicker(askPause)
	defer look.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case <-look.C:
			now, err := placeOf(k.cfg.Path)
			if err == nil && now == k.place && k.answers(ctx) || ctx.Err() != nil {
				continue
			}
			// One that has lost its place ends by itself, unless it hangs.
			_ = cmd.Process.Kill()
			return errors.Join(errors.New("it did not answer"), <-ended)
		case <-ctx.Done():
			_ = cmd.Process.Signal(syscall.SIGTERM)
			select {
			case err := <-ended:
				return err
			case <-time.After(endTime):
				_ = cmd.Process.Kill()
				return <-ended
			}
		}
	}
}

// answers reports whether the process answers a call that needs no netd.
func (k *Keeper) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	_, err := New(k.cfg.Path).ask(ctx, http.MethodPost, "Plugin.Activate", nil)
	return err == nil
}
