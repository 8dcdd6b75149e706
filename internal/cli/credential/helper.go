package credential

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"syscall"
	"time"

	"github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"
)

// Bounds of helpers.
const (
	helperTimeout = time.Minute // some ask for a passphrase
	maxHelper     = 1 << 20     // bytes of its answer
	maxComplaint  = 512         // bytes of what it says when it fails
)

// helper is a program that keeps credentials.
type helper struct {
	ctx     context.Context
	name    string // without docker-credential-
	timeout time.Duration
}

func (f Files) helper(ctx context.Context, name string) *helper {
	h := &helper{ctx: ctx, name: name, timeout: f.Timeout}
	if h.timeout == 0 {
		h.timeout = helperTimeout
	}
	return h
}

// plainName is what a helper may be called: nothing that leads to another folder.
var plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

func (h *helper) program(args ...string) client.Program {
	return &program{helper: h, args: args}
}

func (h *helper) String() string { return "docker-credential-" + h.name }

func (h *helper) explain(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s by the helper %s: %w", doing, h, err)
}

// get returns what the helper has, if anything.
func (h *helper) get(key string) (Credential, bool, error) {
	c, err := client.Get(h.program, key)
	switch {
	case credentials.IsErrCredentialsNotFound(err):
		return Credential{}, false, nil
	case err != nil:
		return Credential{}, false, h.explain("get a credential", err)
	case c.Username == "" && c.Secret == "":
		return Credential{}, false, nil
	case c.Username == "<token>":
		return Credential{IdentityToken: c.Secret}, true, nil
	}
	return Credential{Username: c.Username, Password: c.Secret}, true, nil
}

func (h *helper) store(key string, c Credential) error {
	return h.explain("keep the credential",
		client.Store(h.program, &credentials.Credentials{ServerURL: key, Username: c.Username, Secret: c.Password}))
}

func (h *helper) erase(key string) error {
	err := client.Erase(h.program, key)
	if err == nil || credentials.IsErrCredentialsNotFoundMessage(err.Error()) {
		return nil
	}
	return h.explain("remove the credential", err)
}

// program is one run of a helper, bounded in time and output.
type program struct {
	helper *helper
	args   []string
	in     io.Reader
}

// Input implements [client.Program].
func (p *program) Input(in io.Reader) { p.in = in }

// Output implements [client.Program].
func (p *program) Output() ([]byte, error) {
	h := p.helper
	if !plainName.MatchString(h.name) {
		return nil, fmt.Errorf("%q is no name of a helper", h.name)
	}
	ctx, cancel := context.WithTimeout(h.ctx, h.timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.String(), p.args...)
	var out, complaint limited
	out.left, complaint.left = maxHelper, maxComplaint
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.in, &out, &complaint
	// What it starts ends with it, and what keeps its output open does not hold us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, errors.New("it is not installed: install it, or take it out of credsStore and credHelpers")
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, fmt.Errorf("it has not ended for %s", h.timeout)
	case out.over:
		return nil, fmt.Errorf("it answered more than %d bytes", maxHelper)
	case err != nil && complaint.kept.Len() > 0:
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(complaint.kept.Bytes()))
	}
	if err != nil {
		out.kept.Truncate(min(out.kept.Len(), maxComplaint))
	}
	return out.kept.Bytes(), err
}

// limited keeps the beginning of what is written, and takes the rest without keeping it.
type limited struct {
	kept bytes.Buffer // not embedded: its ReadFrom knows no limit
	left int
	over bool
}

// Write implements [io.Writer].
func (l *limited) Write(b []byte) (int, error) {
	part := b[:min(len(b), l.left)]
	l.left -= len(part)
	l.over = l.over || len(part) < len(b)
	l.kept.Write(part) // never fails
	return len(b), nil
}
