package main

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vethloom/vethloom/bench/sample"
)

// Kinds of images that not every engine can take.
const (
	kindPlain = ""
	kindZstd  = "zstd"
	kindDeep  = "deep"
)

// limit is what an engine cannot take: images of a kind, refused in words that nothing else is refused in.
type limit struct{ kind, words, reason string }

// dockerLimits are what some versions of docker do not take, in their words. It uses the first ones for each archive
// that is none, so that they say something of images in zstd alone.
var dockerLimits = []limit{{kindZstd, "invalid tar header", "cannot unpack it"},
	{kindDeep, "max depth exceeded", "takes 125 at most"}}

// imager is what engines do with images. An engine has no command for what is nil.
type imager struct {
	name    string
	line    []string // how its command line starts
	daemons []int    // processes whose memory is its own
	limits  []limit
	apart   bool // it takes nothing from the registry

	pull   func(ctx context.Context, i sample.Image) error
	load   func(ctx context.Context, file string) error
	run    func(ctx context.Context, name string) error
	remove func(ctx context.Context, names ...string) error
	prune  func(ctx context.Context) error
	images func(ctx context.Context) (int, error)

	most float64 // memory that its commands held, in MB
}

// call runs a command of the engine, and counts its memory.
func (im *imager) call(ctx context.Context, args ...string) error {
	_, err := im.ask(ctx, args...)
	return err
}

// ask says what a command of the engine prints, too.
func (im *imager) ask(ctx context.Context, args ...string) (string, error) {
	out, most, err := watched(ctx, slices.Concat(im.line, args))
	im.most = max(im.most, most)
	return out, err
}

// refusal is why an engine cannot take an image of a kind; empty when something else has failed.
func (im *imager) refusal(kind string, err error) string {
	for _, l := range im.limits {
		if l.kind == kind && kind != kindPlain && strings.Contains(err.Error(), l.words) {
			return l.reason
		}
	}
	return ""
}

// forget has the next peak be that of the next job.
func (im *imager) forget() error {
	im.most = 0
	var errs []error
	for _, pid := range im.daemons {
		errs = append(errs, forgetPeak(pid))
	}
	return errors.Join(errs...)
}

// held sums up the memory of the daemons, as one of peak and resident says it.
func (im *imager) held(of func(pid int) (float64, error)) (sum float64, err error) {
	for _, pid := range im.daemons {
		mb, err := of(pid)
		if err != nil {
			return 0, fmt.Errorf("memory of %s: %w", im.name, err)
		}
		sum += mb
	}
	return sum, nil
}

// imagers starts what there is on this machine, vethloom first and the floors last.
func (g *gallery) imagers(ctx context.Context, m *machine) ([]*imager, error) {
	var all []*imager
	for _, start := range []func(context.Context, *machine) (*imager, error){
		g.ours, g.debianDocker, g.currentDocker, g.containerd, g.tools} {
		im, err := start(ctx, m)
		if err != nil {
			return nil, err
		}
		if im != nil {
			all = append(all, im)
		}
	}
	return append(all, decompression(), extraction(filepath.Join(m.dir, "extracted"))), nil
}

func (g *gallery) ours(ctx context.Context, m *machine) (*imager, error) {
	if m.cfg.baselines {
		return nil, nil
	}
	f, err := m.netd(ctx, "images", g.inside, "--docker-plugin", "off")
	if err != nil {
		return nil, err
	}
	im := &imager{name: oursName, line: []string{f.net, "--host", f.host}, daemons: []int{f.pid}}
	im.dockerLike(g)
	im.prune = func(ctx context.Context) error { return im.call(ctx, "image", "prune", "-a", "-f") }
	return im, nil
}

// dockerLike gives an engine the commands that docker and net have alike.
func (im *imager) dockerLike(g *gallery) {
	im.pull = func(ctx context.Context, i sample.Image) error { return im.call(ctx, "pull", "-q", g.registry.Name(i)) }
	im.load = func(ctx context.Context, file string) error { return im.call(ctx, "load", "-q", "-i", file) }
	im.run = func(ctx context.Context, name string) error {
		return im.call(ctx, "run", "--rm", "--network", "none", name, "true")
	}
	im.remove = func(ctx context.Context, names ...string) error {
		return im.call(ctx, append([]string{"rmi"}, names...)...)
	}
	im.images = func(ctx context.Context) (int, error) {
		out, err := im.ask(ctx, "images", "-q")
		return len(strings.Fields(out)), err
	}
}

func (g *gallery) debianDocker(ctx context.Context, m *machine) (*imager, error) {
	return g.docker(ctx, m, "images-docker", "dockerd")
}

// currentDocker is one that `make .cache/engine` has built.
func (g *gallery) currentDocker(ctx context.Context, m *machine) (*imager, error) {
	dir := m.cfg.engine
	if dir == "" {
		dir = filepath.Join(m.cfg.bin, "../.cache/engine")
	}
	program := filepath.Join(dir, "dockerd")
	if _, err := os.Stat(program); err != nil {
		m.missing("a docker of today: make .cache/engine builds it", err)
		return nil, nil
	}
	im, err := g.docker(ctx, m, "images-docker-current", program, "--add-runtime",
		"current="+filepath.Join(dir, "runc"), "--default-runtime", "current")
	if err != nil || im == nil {
		return im, err
	}
	info, err := buildinfo.ReadFile(program) // of itself it knows no version, built like this
	if err != nil {
		return nil, fmt.Errorf("which docker it is: %w", err)
	}
	for _, d := range append(info.Deps, &info.Main) {
		if d.Path == "github.com/moby/moby/v2" {
			im.name = "docker of today (moby " + d.Version + ")"
		}
	}
	return im, nil
}

// docker starts a dockerd that leaves the network namespace, which others are in, as it is.
func (g *gallery) docker(ctx context.Context, m *machine, name, program string, flags ...string) (*imager, error) {
	// The command line may be older than the daemon.
	line := slices.Concat(g.inside, []string{"env", "DOCKER_MIN_API_VERSION=1.41", program})
	d, err := m.emptyDockerd(ctx, name, line, slices.Concat([]string{"--bridge", "none", "--iptables=false",
		"--ip6tables=false", "--ip-forward=false"}, flags)...)
	if err != nil || d == nil {
		return nil, err
	}
	version, err := d.cli(ctx, "version", "--format", "{{.Server.Version}}")
	if err != nil {
		return nil, err
	}
	// It starts a containerd of its own.
	text, err := os.ReadFile(filepath.Join("/run", name, "containerd", "containerd.pid"))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("%s: the number of its containerd: %w", name, err)
	}
	im := &imager{name: "docker " + release(version), line: []string{"docker", "-H", d.host},
		daemons: []int{d.pid, pid}, limits: dockerLimits}
	im.dockerLike(g)
	im.prune = func(ctx context.Context) error { return im.call(ctx, "image", "prune", "-a", "-f") }
	return im, nil
}

// containerdConfig leaves out what has nothing to do with images, and would write outside of the scratch directory.
const containerdConfig = `version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
`

func (g *gallery) containerd(ctx context.Context, m *machine) (*imager, error) {
	const socket, cgroup = "/run/images-ctr.sock", "/vethloom-bench-ctr"
	for _, program := range []string{"containerd", "ctr"} {
		if _, err := exec.LookPath(program); err != nil {
			m.missing("containerd: make deps installs it", err)
			return nil, nil
		}
	}
	config := filepath.Join(m.dir, "containerd.toml")
	if err := os.WriteFile(config, []byte(containerdConfig), 0o644); err != nil {
		return nil, err
	}
	m.defers(func() { removeCgroups(cgroup) })
	line := slices.Concat(g.inside, []string{"containerd", "--config", config, "--root", filepath.Join(m.dir, "ctr"),
		"--state", "/run/images-ctr", "--address", socket, "--log-level", "error"})
	p, err := m.daemon("images-ctr", line[0], line[1:]...)
	if err != nil {
		return nil, err
	}
	im := &imager{line: slices.Concat(g.inside, []string{"ctr", "--address", socket}),
		daemons: []int{p.cmd.Process.Pid}}
	if err := poll(ctx, p, func(ctx context.Context) error { return im.call(ctx, "version") }); err != nil {
		return nil, err
	}
	if im.name, err = toolName(ctx, "containerd", "--version"); err != nil {
		return nil, err
	}
	im.pull = func(ctx context.Context, i sample.Image) error {
		return im.call(ctx, "images", "pull", "--plain-http", g.registry.Name(i))
	}
	im.load = func(ctx context.Context, file string) error { return im.call(ctx, "images", "import", file) }
	runs := 0
	im.run = func(ctx context.Context, name string) error {
		runs++
		id := fmt.Sprintf("bench%d", runs)
		return im.call(ctx, "run", "--rm", "--cgroup", cgroup+"/"+id, name, id, "true")
	}
	im.remove = func(ctx context.Context, names ...string) error {
		return im.call(ctx, append([]string{"images", "rm", "--sync"}, names...)...)
	}
	im.images = func(ctx context.Context) (int, error) {
		out, err := im.ask(ctx, "images", "ls", "-q")
		return len(strings.Fields(out)), err
	}
	return im, nil
}

// tools have no daemon: one fetches into an OCI layout, the other one unpacks it.
func (g *gallery) tools(ctx context.Context, m *machine) (*imager, error) {
	var names []string
	for _, program := range []string{"skopeo", "umoci"} {
		if _, err := exec.LookPath(program); err != nil {
			m.missing(program+": make bench-deps installs it", err)
			return nil, nil
		}
		name, err := toolName(ctx, program, "--version")
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	dir := filepath.Join(m.dir, "tools")
	layout := filepath.Join(dir, "layout") + ":latest"
	im := &imager{name: strings.Join(names, " and "), line: g.inside,
		limits: []limit{{kindZstd, "blob is not correct mediatype", "umoci cannot unpack it"}}}
	im.pull = func(ctx context.Context, i sample.Image) error {
		err := os.Mkdir(dir, 0o755)
		if err == nil {
			err = im.call(ctx, "skopeo", "copy", "--quiet", "--insecure-policy", "--src-tls-verify=false",
				"docker://"+g.registry.Name(i), "oci:"+layout)
		}
		if err == nil {
			err = im.call(ctx, "umoci", "unpack", "--image", layout, filepath.Join(dir, "bundle"))
		}
		if err != nil {
			return errors.Join(err, os.RemoveAll(dir))
		}
		return nil
	}
	im.remove = func(context.Context, ...string) error { return os.RemoveAll(dir) }
	return im, nil
}

// toolName is a program and its version, which is the word with a digit and a dot in what it prints.
func toolName(ctx context.Context, program string, args ...string) (string, error) {
	out, err := command(ctx, program, args...)
	if err != nil {
		return "", err
	}
	for _, word := range strings.Fields(string(out)) {
		if strings.Contains(word, ".") && word[0] >= '0' && word[0] <= '9' {
			return program + " " + release(word), nil
		}
	}
	return program, nil
}

// release is a version without what a distribution adds.
func release(version string) string {
	if i := strings.IndexAny(version, "+~"); i > 0 {
		return version[:i]
	}
	return version
}

// The floors, which are no engines.
const (
	floorDecompress = "floor: decompress alone, on one core"
	floorWrite      = "floor: write alone, `tar -x` of the archives"
)

// decompression is one floor: nobody is faster who has one core for it and the same library.
func decompression() *imager {
	return &imager{name: floorDecompress, apart: true,
		pull: func(_ context.Context, i sample.Image) error {
			for _, l := range i.Layers {
				r, err := l.Open()
				if err != nil {
					return err
				}
				_, err = io.Copy(io.Discard, r)
				if err := errors.Join(err, r.Close()); err != nil {
					return err
				}
			}
			return nil
		},
		remove: func(context.Context, ...string) error { return nil },
	}
}

// extraction is the other floor: what the writing of the same files takes.
func extraction(dir string) *imager {
	return &imager{name: floorWrite, apart: true,
		pull: func(ctx context.Context, i sample.Image) error {
			for n, l := range i.Layers {
				at := filepath.Join(dir, strconv.Itoa(n))
				if err := os.MkdirAll(at, 0o755); err != nil {
					return err
				}
				if _, err := command(ctx, "tar", "-C", at, "-xf", l.File); err != nil {
					return err
				}
			}
			return nil
		},
		remove: func(context.Context, ...string) error { return os.RemoveAll(dir) },
	}
}
