package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vethloom/vethloom/cnm"
)

// Dirs are the folders that plugins are looked for in.
type Dirs struct {
	Sockets []string // of sockets: NAME.sock, NAME/NAME.sock
	Specs   []string // of files that have an address: NAME.spec, NAME.json, each also in a folder NAME
}

// DockerDirs are those of Docker.
func DockerDirs() Dirs {
	return Dirs{Sockets: []string{"/run/docker/plugins"},
		Specs: []string{"/etc/docker/plugins", "/usr/lib/docker/plugins"}}
}

// The kinds of driver that a plugin can implement.
const (
	NetworkDriver = "NetworkDriver"
	IPAMDriver    = "IpamDriver"
)

// maxSpec bounds a file that has a plugin's address, in bytes.
const maxSpec = 64 << 10

// ErrNoPlugin is why there is no plugin of a name: no folder has one.
var ErrNoPlugin = errors.New("no such plugin")

// Config is what a [Finder] works with. The zero value is that of Docker.
type Config struct {
	Dirs Dirs
	// Wait bounds one call; zero: 30 seconds.
	Wait time.Duration
}

// Finder finds plugins by name. One that has answered its activation is kept for as long as it can be reached.
type Finder struct {
	cfg Config

	mu    sync.Mutex
	known map[string]*Plugin
}

// NewFinder makes a finder. Nothing is looked for until somebody asks.
func NewFinder(c Config) *Finder {
	if len(c.Dirs.Sockets)+len(c.Dirs.Specs) == 0 {
		c.Dirs = DockerDirs()
	}
	if c.Wait == 0 {
		c.Wait = 30 * time.Second
	}
	return &Finder{cfg: c, known: map[string]*Plugin{}}
}

// Find finds the plugin of that name which implements a kind of driver, and activates it. Without one in any folder the
// error is an [ErrNoPlugin].
func (f *Finder) Find(ctx context.Context, name, kind string) (*Plugin, error) {
	if err := cnm.CheckName("plugin", name); err != nil {
		return nil, err
	}
	at, err := f.locate(name)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	p := f.known[name]
	f.mu.Unlock()
	if p == nil || p.at != at {
		if p, err = f.open(ctx, name, at); err != nil {
			return nil, err
		}
	}
	if !slices.Contains(p.implements, kind) {
		return nil, &cnm.Error{Kind: cnm.ErrInvalid, Field: "plugin", Value: name,
			Reason: fmt.Sprintf("it says that it is %s, and no %s", orNothing(p.implements), kind),
			Remedy: "choose a plugin that is one"}
	}
	return p, nil
}

func orNothing(words []string) string {
	if len(words) == 0 {
		return "nothing"
	}
	return clean(strings.Join(words, " and "))
}

// open activates a plugin and keeps it.
func (f *Finder) open(ctx context.Context, name string, at place) (*Plugin, error) {
	p, err := dial(name, at, f.cfg.Wait)
	if err != nil {
		return nil, err
	}
	p.forget = func() { f.drop(name, p) }
	if err := p.activate(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known[name] = p
	return p, nil
}

// drop has a plugin that could not be reached activated again before its next call.
func (f *Finder) drop(name string, p *Plugin) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known[name] == p {
		delete(f.known, name)
	}
}

// place is where a plugin answers, by what was found in the folders. It is comparable: a plugin that has another one
// now is another plugin.
type place struct {
	addr string
	tls  tlsConfig
	has  bool   // tls counts
	id   string // of a socket: its inode and when it was made, which differ when the plugin has started again
}

// locate looks through the folders, sockets first.
func (f *Finder) locate(name string) (place, error) {
	for _, dir := range f.cfg.Dirs.Sockets {
		for _, path := range paths(dir, name, ".sock") {
			st, err := os.Stat(path)
			if err == nil && st.Mode()&fs.ModeSocket != 0 {
				return place{addr: "unix://" + path, id: identity(st)}, nil
			}
		}
	}
	for _, dir := range f.cfg.Dirs.Specs {
		for ext, read := range map[string]func(string) (place, error){".spec": readSpec, ".json": readJSON} {
			for _, path := range paths(dir, name, ext) {
				at, err := read(path)
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				return at, err
			}
		}
	}
	return place{}, f.missing(name)
}

// paths are where a folder may have a plugin's file.
func paths(dir, name, ext string) []string {
	return []string{filepath.Join(dir, name+ext), filepath.Join(dir, name, name+ext)}
}

// missing tells where was looked.
func (f *Finder) missing(name string) error {
	return fmt.Errorf("%w: looked for %s.sock in %s, and for %s.spec and %s.json in %s", ErrNoPlugin, name,
		strings.Join(f.cfg.Dirs.Sockets, ", "), name, name, strings.Join(f.cfg.Dirs.Specs, ", "))
}

func identity(st fs.FileInfo) string {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return st.ModTime().String()
	}
	return fmt.Sprint(sys.Dev, " ", sys.Ino, " ", sys.Ctim)
}

// readFile reads a file that has an address.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would wait for who writes
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s: not a regular file", path), err)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSpec+1))
	if err == nil && len(b) > maxSpec {
		err = fmt.Errorf("%s: longer than %d bytes", path, maxSpec)
	}
	return b, err
}

// readSpec reads a file that has an address alone.
func readSpec(path string) (place, error) {
	b, err := readFile(path)
	if err != nil {
		return place{}, err
	}
	at := place{addr: strings.TrimSpace(string(b))}
	if err := checkAddr(at.addr); err != nil {
		return place{}, fmt.Errorf("%s: %w", path, err)
	}
	return at, nil
}

// tlsConfig is a plugin's TLS as its file has it.
type tlsConfig struct {
	InsecureSkipVerify        bool
	CAFile, CertFile, KeyFile string
}

// readJSON reads a file that has an address and what TLS takes.
func readJSON(path string) (place, error) {
	b, err := readFile(path)
	if err != nil {
		return place{}, err
	}
	var spec struct {
		Name, Addr string
		TLSConfig  *tlsConfig
	}
	if err := json.Unmarshal(b, &spec); err != nil {
		return place{}, fmt.Errorf("%s: %w", path, err)
	}
	at := place{addr: strings.TrimSpace(spec.Addr)}
	if spec.TLSConfig != nil {
		at.tls, at.has = *spec.TLSConfig, true
	}
	if err := checkAddr(at.addr); err != nil {
		return place{}, fmt.Errorf("%s: %w", path, err)
	}
	return at, nil
}
