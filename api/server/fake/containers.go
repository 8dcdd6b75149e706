package fake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
)

// container is a container whose process is a goroutine.
type container struct {
	view server.ContainerView
	proc *process // of the last start
	log  []engine.LogLine
	next []waiting // for a start
}

func (d *core) container(ref string) (*container, error) {
	for _, c := range d.containers {
		if c.view.Spec.Name == ref || ref != "" && strings.HasPrefix(c.view.ID, ref) {
			return c, nil
		}
	}
	return nil, &cnm.Error{Kind: cnm.ErrNotFound, Field: "container", Value: ref, Reason: "there is none",
		Remedy: "see 'net ps -a'"}
}

// Create implements [server.ContainerLife].
func (d *containerPart) Create(_ context.Context, s engine.Spec) (string, []string, error) {
	if err := d.enter("Create"); err != nil {
		return "", nil, err
	}
	defer d.mu.Unlock()
	i, err := d.image(s.Image)
	if err != nil {
		return "", nil, err
	}
	id := d.id()
	if s.Name == "" {
		s.Name = "quiet_fox"
	}
	if _, err := d.container(s.Name); err == nil {
		return "", nil, &cnm.Error{Kind: cnm.ErrExists, Field: "name", Value: s.Name, Reason: "is taken",
			Remedy: "choose another --name, or remove that container"}
	}
	c := &container{view: server.ContainerView{Details: engine.Details{
		Container: engine.Container{ID: id, Spec: s, ImageID: d.images[i].ID, Created: Epoch, Status: engine.Created,
			Phase: cnm.Active},
		Args:    append(slices.Clone(s.Entrypoint), s.Command...),
		LogPath: "/var/lib/vethloom/containers/" + id[:12] + "/log",
	}}}
	if len(c.view.Args) == 0 {
		c.view.Args = []string{"sh"}
	}
	c.view.Sandbox.ID, c.view.Sandbox.Path = d.id(), "/run/vethloom/netns/"+id[:12]
	requests := s.Networks
	if len(requests) == 0 {
		requests = []cnm.AttachRequest{{Network: "bridge"}}
	}
	for n, r := range requests {
		var ports []cnm.PortMapping
		if n == 0 {
			ports = numbered(s.Ports)
		}
		if _, err := d.join(c, r, ports); err != nil {
			return "", nil, err
		}
	}
	d.containers = append(d.containers, c)
	if s.Privileged {
		return id, []string{"--privileged gives the container the host"}, nil
	}
	return id, nil, nil
}

// Start implements [server.ContainerLife].
func (d *containerPart) Start(_ context.Context, ref string) error {
	if err := d.enter("Start"); err != nil {
		return err
	}
	defer d.mu.Unlock()
	c, err := d.start(ref)
	if err == nil && len(c.next) == 0 {
		c.proc.release()
	}
	if err == nil {
		for _, n := range c.next {
			c.proc.add(n.stdio)
		}
		for _, n := range c.next {
			n.begun <- c.proc
		}
		c.next = nil
	}
	return err
}

func (d *containerPart) start(ref string) (*container, error) {
	c, err := d.container(ref)
	if err != nil || c.view.Status == engine.Running {
		return c, err
	}
	program := c.view.Args[0]
	switch program {
	case "nosuch":
		return nil, &CommandError{program, 127}
	case "/etc/passwd":
		return nil, &CommandError{program, 126}
	}
	p := newProcess(c.view.Args, c.view.Spec.Env)
	p.output = func(stderr bool, b []byte) {
		d.mu.Lock()
		defer d.mu.Unlock()
		for line := range strings.SplitAfterSeq(string(b), "\n") {
			if line != "" {
				c.log = append(c.log, engine.LogLine{Time: Epoch.Add(time.Duration(len(c.log)) * time.Second),
					Stderr: stderr, Line: []byte(line)})
			}
		}
	}
	c.proc = p
	c.view.Status, c.view.Pid, c.view.Started = engine.Running, 4242, Epoch
	d.running.Go(func() {
		code := p.run(d.life)
		d.mu.Lock()
		defer d.mu.Unlock()
		c.view.Status, c.view.Pid, c.view.ExitCode, c.view.Finished = engine.Exited, 0, code, Epoch
		if c.view.Spec.Remove {
			d.drop(c)
		}
		p.exit(code)
	})
	return c, nil
}

func (d *core) drop(c *container) {
	d.containers = slices.DeleteFunc(d.containers, func(x *container) bool { return x == c })
}

// ChangePorts implements [server.ContainerLife].
func (d *containerPart) ChangePorts(_ context.Context, ref string, add, remove []cnm.PortMapping) error {
	if err := d.enter("ChangePorts"); err != nil {
		return err
	}
	defer d.mu.Unlock()
	c, err := d.container(ref)
	if err != nil {
		return err
	}
	ports := slices.Clone(c.view.Spec.Ports)
	for _, m := range remove {
		kept := slices.DeleteFunc(slices.Clone(ports), m.Names)
		if len(kept) == len(ports) {
			return &cnm.Error{Kind: cnm.ErrNotFound, Field: "port", Value: m.String(), Reason: "it is not published"}
		}
		ports = kept
	}
	ports = append(ports, add...)
	c.view.Spec.Ports = ports
	c.view.Sandbox.Endpoints[0].Ports = numbered(ports)
	return nil
}

// numbered has numbers for the host ports that are left open.
func numbered(ports []cnm.PortMapping) []cnm.PortMapping {
	ports = slices.Clone(ports)
	for p := range ports {
		if ports[p].Dynamic {
			ports[p].HostPort = 32768 + uint16(p)
		}
	}
	return ports
}

// Stop implements [server.ContainerLife].
func (d *containerPart) Stop(ctx context.Context, ref string, o engine.StopOptions) error {
	if err := d.enter("Stop"); err != nil {
		return err
	}
	c, err := d.container(ref)
	d.mu.Unlock()
	if err != nil {
		return err
	}
	if c.proc == nil {
		return nil
	}
	c.proc.signal("TERM")
	if o.Timeout != nil && *o.Timeout == 0 {
		c.proc.signal("KILL")
	}
	_, err = c.proc.wait(ctx)
	return err
}

// Kill implements [server.ContainerLife].
func (d *containerPart) Kill(_ context.Context, ref, signal string) error {
	if err := d.enter("Kill"); err != nil {
		return err
	}
	defer d.mu.Unlock()
	c, err := d.container(ref)
	if err != nil {
		return err
	}
	if c.view.Status != engine.Running {
		return fmt.Errorf("container %s: %w", ref, &cnm.Error{Kind: cnm.ErrForbidden, Reason: errNotRunning.Error(),
			Remedy: "start it first"})
	}
	c.proc.signal(strings.TrimPrefix(signal, "SIG"))
	return nil
}

// Remove implements [server.ContainerLife].
func (d *containerPart) Remove(_ context.Context, ref string, force, _ bool) (string, error) {
	if err := d.enter("Remove"); err != nil {
		return "", err
	}
	defer d.mu.Unlock()
	c, err := d.container(ref)
	if err != nil {
		return "", err
	}
	if c.view.Status == engine.Running {
		if !force {
			return "", &cnm.Error{Kind: cnm.ErrInUse, Field: "container", Value: ref, Reason: "is running",
				Remedy: "stop it first, or use --force"}
		}
		c.proc.signal("KILL")
	}
	d.drop(c)
	return c.view.ID, nil
}

// Wait implements [server.ContainerLife].
func (d *containerPart) Wait(ctx context.Context, ref string, condition engine.WaitCondition,
	ready func() error) (engine.ExitStatus, error) {
	if ready == nil {
		ready = func() error { return nil }
	}
	if condition == engine.WaitNextExit {
		return d.AttachNext(ctx, ref, ready, engine.Stdio{})
	}
	if err := d.enter("Wait"); err != nil {
		return engine.ExitStatus{}, err
	}
	c, err := d.container(ref)
	d.mu.Unlock()
	if err == nil {
		err = ready()
	}
	if err != nil || c.proc == nil {
		return engine.ExitStatus{}, err
	}
	return d.waitFor(ctx, c.proc)
}

// waitFor is counted.
func (d *containerPart) waitFor(ctx context.Context, p *process) (engine.ExitStatus, error) {
	d.Waiters.Add(1)
	defer d.Waiters.Add(-1)
	return p.wait(ctx)
}

// Attach implements [server.ContainerStreams].
func (d *containerPart) Attach(ctx context.Context, ref string, start bool, stdio engine.Stdio) (engine.ExitStatus,
	error) {
	if err := d.enter("Attach"); err != nil {
		return engine.ExitStatus{}, err
	}
	c, err := d.container(ref)
	if err != nil {
		d.mu.Unlock()
		return engine.ExitStatus{}, err
	}
	if c.view.Status != engine.Running && !start {
		d.mu.Unlock()
		return engine.ExitStatus{}, &cnm.Error{Kind: cnm.ErrForbidden, Field: "container", Value: ref,
			Reason: errNotRunning.Error()}
	}
	if c.view.Status == engine.Running {
		d.mu.Unlock()
		return c.proc.attach(ctx, ref, stdio)
	}
	// The client must be there before the first output.
	d.mu.Unlock()
	return d.attachStart(ctx, ref, stdio)
}

func (d *containerPart) attachStart(ctx context.Context, ref string, stdio engine.Stdio) (engine.ExitStatus, error) {
	d.mu.Lock()
	c, err := d.start(ref)
	if err != nil {
		d.mu.Unlock()
		return engine.ExitStatus{}, err
	}
	p := c.proc
	d.mu.Unlock()
	return p.attach(ctx, c.view.ID, stdio)
}

// Exec implements [server.ContainerStreams].
func (d *containerPart) Exec(ctx context.Context, r engine.ExecRequest, stdio engine.Stdio) (engine.ExitStatus, error) {
	if err := d.enter("Exec"); err != nil {
		return engine.ExitStatus{}, err
	}
	c, err := d.container(r.Container)
	d.mu.Unlock()
	if err != nil {
		return engine.ExitStatus{}, err
	}
	if c.view.Status != engine.Running {
		return engine.ExitStatus{}, &cnm.Error{Kind: cnm.ErrForbidden, Field: "container", Value: r.Container,
			Reason: errNotRunning.Error()}
	}
	if r.Command[0] == "nosuch" {
		return engine.ExitStatus{}, &CommandError{r.Command[0], 127}
	}
	p := newProcess(r.Command, r.Env)
	d.running.Go(func() { p.exit(p.run(d.life)) })
	if r.Detach {
		p.release()
		return engine.ExitStatus{}, nil
	}
	return p.attach(ctx, c.view.ID, stdio)
}

// Logs implements [server.ContainerStreams]; following, it ends with the process.
func (d *containerPart) Logs(ctx context.Context, r engine.LogsRequest, each func(engine.LogLine) error) error {
	if err := d.enter("Logs"); err != nil {
		return err
	}
	c, err := d.container(r.Container)
	d.mu.Unlock()
	if err != nil {
		return err
	}
	if r.Follow && c.proc != nil {
		if _, err := d.waitFor(ctx, c.proc); err != nil {
			return err
		}
	}
	d.mu.Lock()
	lines := slices.Clone(c.log)
	d.mu.Unlock()
	if r.Tail >= 0 {
		lines = lines[max(0, len(lines)-r.Tail):]
	}
	for _, l := range lines {
		if !r.Since.IsZero() && l.Time.Before(r.Since) || !r.Until.IsZero() && l.Time.After(r.Until) {
			continue
		}
		if err := each(l); err != nil {
			return err
		}
	}
	return nil
}

// List implements [server.ContainerViews].
func (d *containerPart) List(_ context.Context, all bool) ([]server.ContainerView, error) {
	if err := d.enter("List"); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	var out []server.ContainerView
	for _, c := range slices.Backward(d.containers) {
		if all || c.view.Status == engine.Running {
			out = append(out, c.view)
		}
	}
	return out, nil
}

// Inspect implements [server.ContainerViews].
func (d *containerPart) Inspect(_ context.Context, ref string) (server.ContainerView, error) {
	if err := d.enter("Inspect"); err != nil {
		return server.ContainerView{}, err
	}
	defer d.mu.Unlock()
	c, err := d.container(ref)
	if err != nil {
		return server.ContainerView{}, err
	}
	return c.view, nil
}

// process is what runs in a container.
type process struct {
	args    []string
	env     []string
	stdin   *io.PipeReader
	feed    *io.PipeWriter
	signals chan string
	sizes   chan engine.WindowSize
	done    chan struct{}
	begin   chan struct{} // closed when somebody is there to see the output
	once    sync.Once
	output  func(stderr bool, b []byte)

	mu      sync.Mutex // guards what follows
	clients []engine.Stdio
	code    int
}

func newProcess(args, env []string) *process {
	p := &process{
		args: args, env: env, signals: make(chan string, 16), sizes: make(chan engine.WindowSize, 16),
		done: make(chan struct{}), begin: make(chan struct{}), output: func(bool, []byte) {},
	}
	p.stdin, p.feed = io.Pipe()
	return p
}

var errKilled = errors.New("killed")

func (p *process) release() { p.once.Do(func() { close(p.begin) }) }

func (p *process) signal(name string) {
	p.release()
	if p.args[0] == "cat" && name != "USR1" && name != "USR2" {
		_ = p.feed.CloseWithError(errKilled)
	}
	select {
	case p.signals <- name:
	default: // a process that ignores sixteen signals
	}
}

func (p *process) exit(code int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.code = code
	_ = p.stdin.CloseWithError(io.ErrClosedPipe)
	close(p.done)
}

func (p *process) wait(ctx context.Context) (engine.ExitStatus, error) {
	p.release()
	select {
	case <-p.done:
		p.mu.Lock()
		defer p.mu.Unlock()
		return engine.ExitStatus{Code: p.code, Finished: Epoch}, nil
	case <-ctx.Done():
		return engine.ExitStatus{}, ctx.Err()
	}
}

// add enters a client, once.
func (p *process) add(stdio engine.Stdio) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.ContainsFunc(p.clients, func(s engine.Stdio) bool { return s.Stdout == stdio.Stdout }) {
		p.clients = append(p.clients, stdio)
	}
}

func (p *process) attach(ctx context.Context, id string, stdio engine.Stdio) (engine.ExitStatus, error) {
	if err := stdio.Started(engine.Started{ID: id, Pid: 4242}); err != nil {
		return engine.ExitStatus{}, err
	}
	p.add(stdio)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Both goroutines end with the call: its input fails, its context is over.
	if stdio.Stdin != nil {
		go func() {
			if _, err := io.Copy(p.feed, stdio.Stdin); err == nil {
				_ = p.feed.Close()
			}
		}()
	} else {
		_ = p.feed.Close()
	}
	go func() {
		size := stdio.Size
		for {
			select {
			case p.sizes <- size:
			case <-ctx.Done():
				return
			}
			for again := false; !again; {
				select {
				case size = <-stdio.Resize:
					again = true
				case sig := <-stdio.Signals:
					p.signal(sig)
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	status, err := p.wait(ctx)
	p.mu.Lock()
	p.clients = slices.DeleteFunc(p.clients, func(s engine.Stdio) bool { return s.Stdout == stdio.Stdout })
	p.mu.Unlock()
	return status, err
}

func (p *process) write(stderr bool, format string, args ...any) {
	b := fmt.Appendf(nil, format, args...)
	p.output(stderr, b)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.clients {
		w := c.Stdout
		if stderr {
			w = c.Stderr
		}
		_, _ = w.Write(b) // a client that went away is no concern of the process
	}
}

// run interprets the command. What each does is what the tests need.
func (p *process) run(ctx context.Context) int {
	select {
	case <-p.begin:
	case <-ctx.Done():
		return 137
	}
	defer context.AfterFunc(ctx, func() { _ = p.feed.CloseWithError(errKilled) })()
	switch p.args[0] {
	case "echo":
		p.write(false, "%s\n", strings.Join(p.args[1:], " "))
	case "warn":
		p.write(true, "%s\n", strings.Join(p.args[1:], " "))
	case "env":
		set := slices.DeleteFunc(slices.Clone(p.env), func(kv string) bool { return !strings.Contains(kv, "=") })
		p.write(false, "%s\n", strings.Join(set, "\n"))
	case "exit":
		code, err := strconv.Atoi(p.args[1])
		if err != nil {
			return 2
		}
		return code
	case "cat":
		b := make([]byte, 4096)
		for {
			n, err := p.stdin.Read(b)
			if n > 0 {
				p.write(false, "%s", b[:n])
			}
			if errors.Is(err, errKilled) {
				return 137
			}
			if err != nil {
				return 0
			}
		}
	case "size": // tells each size it is given, until signalled
		return p.loop(ctx, func(s engine.WindowSize) { p.write(false, "%dx%d\n", s.Columns, s.Rows) })
	case "trap":
		p.write(false, "ready\n")
		return p.loop(ctx, func(engine.WindowSize) {})
	case "sleep":
		return p.loop(ctx, func(engine.WindowSize) {})
	}
	return 0
}

func (p *process) loop(ctx context.Context, sized func(engine.WindowSize)) int {
	numbers := map[string]int{"HUP": 1, "INT": 2, "QUIT": 3, "KILL": 9, "USR1": 10, "USR2": 12, "TERM": 15}
	for {
		select {
		case s := <-p.sizes:
			sized(s)
		case name := <-p.signals:
			if strings.HasPrefix(name, "USR") {
				p.write(false, "got %s\n", name)
				continue
			}
			if p.args[0] == "trap" {
				p.write(false, "got %s\n", name)
			}
			return 128 + numbers[name]
		case <-ctx.Done():
			return 137
		}
	}
}
