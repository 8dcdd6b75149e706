package script

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/vethloom/vethloom/internal/lab"
)

const (
	settle  = 60 * time.Second // how long a block `run until` may take
	onePart = 90 * time.Second // how long any block may take
)

// Runner runs a script in a lab.
type Runner struct {
	Lab   *lab.Lab
	Print Printer
	vars  map[string]string
}

// Run runs the script to its end, or to the first thing that is not as it says. Errors name the line.
func (r *Runner) Run(ctx context.Context, s Script) error {
	r.vars = map[string]string{}
	r.Print.Title(s.Title)
	for _, p := range s.Parts {
		if p.Prose != "" {
			r.Print.Prose(p.Prose)
			continue
		}
		if err := r.part(ctx, p); err != nil {
			return fmt.Errorf("line %w", err)
		}
	}
	return nil
}

func (r *Runner) part(ctx context.Context, p Part) error {
	ctx, cancel := context.WithTimeoutCause(ctx, onePart, fmt.Errorf("it takes more than %s", onePart))
	defer cancel()
	deadline := time.Now().Add(settle)
	for {
		out, transcript, err := r.block(ctx, p.Commands, !p.Until)
		var met []string
		if err == nil {
			met, err = r.expect(p, out)
		}
		if p.Until && err != nil && ctx.Err() == nil && time.Now().Before(deadline) {
			if err := lab.Pause(ctx, betweenTries); err != nil {
				return err
			}
			continue
		}
		if p.Until {
			r.Print.raw(transcript)
		}
		if err == nil {
			r.Print.Met(met)
		}
		return err
	}
}

// block runs commands one after the other. With live it prints as it goes, else it returns what it would print.
func (r *Runner) block(ctx context.Context, commands []Command, live bool) (out, transcript string, err error) {
	var said strings.Builder
	print := func(text string) {
		if live {
			r.Print.raw(text)
		} else {
			said.WriteString(text)
		}
	}
	var jobs []*job
	var all strings.Builder
	for _, c := range commands {
		print(r.Print.command(c))
		if c.Mark == '&' {
			j, err := r.startJob(ctx, c)
			if err != nil {
				return all.String(), said.String(), fmt.Errorf("%d: %w", c.Line, err)
			}
			defer j.stop()
			jobs = append(jobs, j)
			continue
		}
		text, err := r.one(ctx, c)
		print(r.Print.output(text))
		all.WriteString(text)
		if err != nil {
			return all.String(), said.String(), fmt.Errorf("%d: %w", c.Line, err)
		}
	}
	for _, j := range jobs {
		text, err := j.finish(ctx)
		print(r.Print.job(j.command, text))
		all.WriteString(text)
		if err != nil {
			return all.String(), said.String(), fmt.Errorf("%d: %s: %w", j.command.Line, j.command.Text, err)
		}
	}
	return all.String(), said.String(), nil
}

var assignment = regexp.MustCompile(`(?s)^([a-z][a-z0-9_]*)=\$\((.*)\)$`)

// one runs one command and says whether it did what its mark asks for.
func (r *Runner) one(ctx context.Context, c Command) (string, error) {
	if c.Host == "lab" {
		return "", r.Lab.Fault(ctx, strings.Fields(r.expand(c.Text, false))...)
	}
	text := c.Text
	keep := assignment.FindStringSubmatch(text)
	if keep != nil {
		text = keep[2]
	}
	cmd, err := r.shell(ctx, c.Host, text)
	if err != nil {
		return "", err
	}
	b, err := cmd.CombinedOutput()
	out := string(b)
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return out, fmt.Errorf("%s: %w", c.Text, context.Cause(ctx))
	case err != nil && !errors.As(err, &exit):
		return out, fmt.Errorf("%s: %w", c.Text, err)
	case c.Mark == '!' && err == nil:
		return out, fmt.Errorf("%s: was to fail, and did not", c.Text)
	case c.Mark != '!' && err != nil:
		return out, fmt.Errorf("%s: %w", c.Text, err)
	}
	if keep != nil {
		value := strings.TrimSpace(out)
		if value == "" {
			return out, fmt.Errorf("%s: it printed nothing to keep", c.Text)
		}
		r.vars[keep[1]] = value
	}
	return out, nil
}

// shell is a command on a host, with what earlier commands have kept in its environment.
func (r *Runner) shell(ctx context.Context, host, text string) (*exec.Cmd, error) {
	line, err := r.Lab.Command(host, "sh", "-ec", text)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Env = append(os.Environ(), r.Lab.Environ(host)...)
	for name, value := range r.vars {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.WaitDelay = 2 * time.Second
	return cmd, nil
}

// expand puts variables into a text, quoted for a regular expression or not.
func (r *Runner) expand(text string, quote bool) string {
	return variable.ReplaceAllStringFunc(text, func(ref string) string {
		name := ref[2 : len(ref)-1]
		value, ok := r.vars[name]
		if !ok {
			for _, env := range r.Lab.Environ("") {
				if v, found := strings.CutPrefix(env, name+"="); found {
					value, ok = v, true
				}
			}
		}
		if !ok {
			return ref
		}
		if quote {
			return regexp.QuoteMeta(value)
		}
		return value
	})
}

// expect finds what the document says in the output, in its order, and returns it in words.
func (r *Runner) expect(p Part, out string) (met []string, err error) {
	rest := out
	for _, e := range p.Expect {
		text := r.expand(e.Text, true)
		re, err := regexp.Compile("(?m)" + text)
		if err != nil {
			return nil, fmt.Errorf("%d: %w", e.Line, err)
		}
		if e.Never {
			if found := re.FindString(out); found != "" {
				return nil, fmt.Errorf("%d: the output has %q, which must not be there", e.Line, found)
			}
			met = append(met, "no "+strings.ReplaceAll(r.expand(e.Text, false), `\`, ""))
			continue
		}
		at := re.FindStringIndex(rest)
		if at == nil {
			return nil, fmt.Errorf("%d: the output has no %s (any more); it is:\n%s", e.Line, text, out)
		}
		met = append(met, rest[at[0]:at[1]])
		rest = rest[at[1]:]
	}
	return met, nil
}

// betweenTries is the time between two tries of a block.
const betweenTries = 100 * time.Millisecond

// job is a command in the background.
type job struct {
	command Command
	cancel  context.CancelFunc
	out     *buffer
	done    chan error
	ended   bool
}

// startJob starts a command and returns once it has said its first word, as tcpdump and strace do
// when they are ready.
func (r *Runner) startJob(ctx context.Context, c Command) (*job, error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd, err := r.shell(ctx, c.Host, c.Text)
	if err != nil {
		cancel()
		return nil, err
	}
	j := &job{command: c, cancel: cancel, out: &buffer{first: make(chan struct{})}, done: make(chan error, 1)}
	cmd.Stdout, cmd.Stderr = j.out, j.out
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("%s: %w", c.Text, err)
	}
	go func() { j.done <- cmd.Wait() }()
	select {
	case <-j.out.first:
		return j, nil
	case err := <-j.done:
		j.done <- err
		return j, nil
	case <-ctx.Done():
		j.stop()
		return nil, fmt.Errorf("%s: it says nothing: %w", c.Text, context.Cause(ctx))
	}
}

// finish waits for the command's own end.
func (j *job) finish(ctx context.Context) (string, error) {
	select {
	case err := <-j.done:
		j.ended = true
		return j.out.String(), err
	case <-ctx.Done():
		return j.out.String(), context.Cause(ctx)
	}
}

// stop ends a command that has not ended.
func (j *job) stop() {
	j.cancel()
	if !j.ended {
		<-j.done
		j.ended = true
	}
}

// buffer collects output and says when there is some.
type buffer struct {
	mu    sync.Mutex
	text  bytes.Buffer
	first chan struct{}
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.text.Len() == 0 {
		close(b.first)
	}
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
