package builder

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/grpcerrors"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/vethloom/vethloom/plugin/attach"
)

// How long an own buildkitd may take to end before it is killed, and netd to take it off its network.
const (
	endTime    = 10 * time.Second
	detachTime = 20 * time.Second
	reapTime   = 2 * time.Second // until it is known that it has ended
)

// maxSocket is the longest path of a unix socket, in bytes (unix(7): sun_path has 108 with its NUL).
const maxSocket = 107

// own is a buildkitd that was started for one build. It is process 1 of a PID namespace, in mount and network
// namespaces that go with it: when it ends, by whatever, the kernel ends what it has started and removes what it has
// mounted, and netd takes namespaces off their networks that are not there any more. It gets SIGKILL when the thread
// ends that has started it, which is when this process does.
type own struct {
	config  settings
	lock    *os.File
	cmd     *exec.Cmd
	said    tail
	key     *attach.Key // of its place on a network; nil: none
	gone    chan struct{}
	ended   error // of Wait, when gone is closed
	client  *client.Client
	sockets string
}

// start starts a buildkitd, and returns when it answers.
func start(ctx context.Context, c Config) (_ *own, err error) {
	p, err := findPrograms()
	if err != nil {
		return nil, err
	}
	s, err := newSettings(c, p)
	if err != nil {
		return nil, err
	}
	o := &own{config: s, gone: make(chan struct{}), sockets: c.Networks}
	defer func() {
		if err != nil {
			err = errors.Join(o.explain(err), o.close())
		}
	}()
	if o.lock, err = lock(ctx, filepath.Join(s.root, "lock"), c.Say); err != nil {
		return nil, err
	}
	if err := errors.Join(removeCgroups(s.cgroup), os.RemoveAll(s.tmp())); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.run(), 0o700); err != nil {
		return nil, fmt.Errorf("make the builder's directory: %w", err)
	}
	if err := s.ready(ctx, c.Networks); err != nil {
		return nil, err
	}
	return o, o.launch(ctx)
}

// launch starts the process, puts it on a network, and has it become buildkitd.
func (o *own) launch(ctx context.Context) error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start buildkitd: %w", err)
	}
	defer w.Close()
	o.cmd = exec.Command("/proc/self/exe")
	o.cmd.Args = []string{insideName}
	o.cmd.Stdout, o.cmd.Stderr = &o.said, &o.said
	o.cmd.ExtraFiles = []*os.File{r, o.lock}
	o.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setsid: true,
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	if !o.config.host {
		o.cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWNET
	}
	err = o.cmd.Start()
	r.Close()
	if err != nil {
		o.cmd = nil
		return fmt.Errorf("start buildkitd: %w", err)
	}
	go func() {
		o.ended = o.cmd.Wait()
		close(o.gone)
	}()
	if err := o.attach(ctx); err != nil {
		return err
	}
	if err := json.NewEncoder(w).Encode(o.config.inside(o.cmd.Process.Pid)); err != nil {
		return fmt.Errorf("start buildkitd: %w", err)
	}
	w.Close()
	return o.wait(ctx)
}

// attach puts the process on netd's network bridge: it asks registries through the node.
func (o *own) attach(ctx context.Context) error {
	if o.config.host {
		return nil
	}
	o.key = &attach.Key{Engine: "cni", Container: "build-" + rand.Text(), Interface: "eth0"}
	_, err := attach.Do(ctx, o.sockets, attach.Request{Call: attach.Attach, Key: *o.key, Network: defaultNetwork,
		Origin: "build", NetNS: fmt.Sprintf("/proc/%d/ns/net", o.cmd.Process.Pid)})
	if err != nil {
		return fmt.Errorf("put buildkitd on network %s: %w", defaultNetwork, err)
	}
	return nil
}

// wait returns when buildkitd answers.
func (o *own) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-o.gone:
			stop()
		case <-ctx.Done():
		}
	}()
	// Its sockets are on a mount that this process does not see but by way of the other one.
	path := fmt.Sprintf("/proc/%d/root%s", o.cmd.Process.Pid, o.config.run())
	cl, err := within(ctx, func(ctx context.Context) (net.Conn, error) {
		dir, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		var d net.Dialer
		return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), socketName))
	})
	if err != nil {
		return fmt.Errorf("start buildkitd: it does not answer: %w", err)
	}
	o.client = cl
	return nil
}

// explain adds what buildkitd has said to an error, if it has ended.
func (o *own) explain(err error) error {
	if o.cmd == nil {
		return err
	}
	var wait time.Duration
	if grpcerrors.Code(err) == codes.Unavailable { // the connection breaks a moment before it is known why
		wait = reapTime
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-o.gone:
	case <-timer.C:
		return err
	}
	return fmt.Errorf("%w; buildkitd has ended (%v): %s", err, o.cmd.ProcessState, o.said.last())
}

// close ends buildkitd, and removes what the kernel does not remove by itself.
func (o *own) close() error {
	var errs []error
	if o.cmd != nil {
		errs = append(errs, o.end())
	}
	if o.key != nil {
		ctx, cancel := context.WithTimeout(context.Background(), detachTime)
		defer cancel()
		_, err := attach.Do(ctx, o.sockets, attach.Request{Call: attach.Detach, Key: *o.key})
		// When netd is away it finds by itself that the namespace has gone.
		if e, ok := errors.AsType[*attach.Error](err); !ok || e.Kind != attach.Unavailable {
			errs = append(errs, err)
		}
	}
	if o.lock != nil {
		errs = append(errs, removeCgroups(o.config.cgroup), o.lock.Close())
	}
	return errors.Join(errs...)
}

// end asks buildkitd to end, and kills it if it does not.
func (o *own) end() error {
	timer := time.NewTimer(endTime)
	defer timer.Stop()
	// It has ended already: that is not an error.
	_ = o.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-o.gone:
		return nil
	case <-timer.C:
	}
	err := o.cmd.Process.Kill()
	<-o.gone
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end buildkitd: %w", err)
	}
	return nil
}
