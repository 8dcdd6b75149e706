package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// docker is a dockerd of our own, with everything it keeps below the scratch directory.
type docker struct {
	host string // unix://…
	pid  int
	http *http.Client
}

const (
	dockerImage  = "bench:latest"
	dockerCgroup = "/vethloom-bench-docker"
)

// startDocker starts the dockerd that most comparisons share, once; none when there is none on this machine.
func (m *machine) startDocker(ctx context.Context) (*docker, error) {
	if m.docker != nil || m.started["docker"] {
		return m.docker, nil
	}
	m.started["docker"] = true
	var err error
	m.docker, err = m.dockerd(ctx, "docker", apart)
	return m.docker, err
}

// apart starts a program in a network namespace of its own: dockerd drops what it does not know in the FORWARD chain,
// bridged frames included.
var apart = []string{"unshare", "--net"}

// dockerd starts the dockerd on this machine's PATH with further flags, and gives it the image that containers are made
// of; its name is that of its files, and the words before are what leads to its network namespace. It is nil when there
// is none on this machine.
func (m *machine) dockerd(ctx context.Context, name string, before []string, flags ...string) (*docker, error) {
	d, err := m.emptyDockerd(ctx, name, slices.Concat(before, []string{"dockerd"}), flags...)
	if err != nil || d == nil {
		return nil, err
	}
	_, err = d.cli(ctx, "import", m.tar, dockerImage)
	return d, err
}

// emptyDockerd starts a dockerd that has no image; the last word of the line is the program.
func (m *machine) emptyDockerd(ctx context.Context, name string, line []string, flags ...string) (*docker, error) {
	for _, program := range []string{line[len(line)-1], "docker"} {
		if _, err := exec.LookPath(program); err != nil {
			m.missing("docker: make bench-deps installs it", err)
			return nil, nil
		}
	}
	// Socket paths are at most 107 bytes: /run is private to this run.
	place := "/run/" + name
	socket := place + ".sock"
	cgroup := dockerCgroup + "-" + name
	m.defers(func() { removeCgroups(cgroup) })
	line = slices.Concat(line, []string{"--data-root", filepath.Join(m.dir, name), "--exec-root", place,
		"--pidfile", place + ".pid", "--cgroup-parent", cgroup, "-H", "unix://" + socket, "--log-level", "error"},
		flags)
	p, err := m.daemon(name, line[0], line[1:]...)
	if err != nil {
		return nil, err
	}
	d := &docker{host: "unix://" + socket, pid: p.cmd.Process.Pid, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", socket)
		},
	}}}
	return d, poll(ctx, p, func(ctx context.Context) error {
		return d.call(ctx, http.MethodGet, "/_ping", nil, nil)
	})
}

// poll asks until the daemon answers or ends, or a minute is over.
func poll(ctx context.Context, p *process, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("it ended before it was ready: %w", p.failure())
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w (%w)", err, p.failure())
		case <-tick.C:
		}
	}
}

func (d *docker) cli(ctx context.Context, args ...string) (string, error) {
	out, err := command(ctx, "docker", append([]string{"-H", d.host}, args...)...)
	return strings.TrimSpace(string(out)), err
}

// call is one request to the API, without the command line around it.
func (d *docker) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("docker %s: %w", path, err)
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, body)
	if err != nil {
		return fmt.Errorf("docker %s: %w", path, err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := d.http.Do(req)
	if err != nil {
		return fmt.Errorf("docker %s: %w", path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("docker %s: %w", path, err)
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("docker %s: %s: %s", path, resp.Status, strings.TrimSpace(string(text)))
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(text, out)
}

type dockerEndpoint struct {
	Container string
	Force     bool `json:",omitempty"`
}
