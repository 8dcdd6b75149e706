package builder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pelletier/go-toml/v2"

	"github.com/vethloom/vethloom/plugin/attach"
)

const (
	defaultNetwork = "bridge" // that every netd has
	defaultConfig  = "/etc/buildkit/buildkitd.toml"
	socketName     = "buildkitd.sock"
)

// resolver is where every sandbox of vethloom asks for names.
const resolver = "127.0.0.11"

// settings are what an own buildkitd is started with.
type settings struct {
	programs
	self    string // this program
	root    string
	network string // of the steps
	host    bool   // buildkitd and its steps are in this process's network namespace
	sockets string // of netd
	config  map[string]any
	cgroup  string // below which its runtime makes cgroups
}

func newSettings(c Config, p programs) (settings, error) {
	s := settings{programs: p, root: filepath.Clean(c.Request.Root), network: c.Request.Network,
		host: c.Request.Network == "host", sockets: c.Networks}
	if !ofVethloom(s.network) {
		s.network = defaultNetwork
	}
	if n := len(s.socket()); n > maxSocket {
		return s, fmt.Errorf("--builder-root %q: it is too long for the socket below it by %d bytes", s.root,
			n-maxSocket)
	}
	var err error
	if s.self, err = os.Executable(); err != nil {
		return s, fmt.Errorf("find this program: %w", err)
	}
	// Two roots are two builders: each removes its own alone.
	s.cgroup = fmt.Sprintf("vethloom-build-%x", sha256.Sum256([]byte(s.root)))[:len("vethloom-build-")+12]
	s.config, err = readConfig(c.Request.Config)
	return s, err
}

// run is a directory that buildkitd has a mount of its own on, which goes with it.
func (s *settings) run() string    { return filepath.Join(s.root, "run") }
func (s *settings) socket() string { return filepath.Join(s.run(), socketName) }

// tmp has what buildkitd puts into temporary files.
func (s *settings) tmp() string { return filepath.Join(s.root, "tmp") }

// readConfig reads a buildkitd.toml: the one that is named, or the host's, which need not be there.
func readConfig(path string) (map[string]any, error) {
	config := map[string]any{}
	named := path != ""
	if !named {
		path = defaultConfig
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return config, nil
	}
	if err != nil {
		return nil, fmt.Errorf("--builder-config: %w", err)
	}
	if err := toml.Unmarshal(text, &config); err != nil {
		return nil, fmt.Errorf("--builder-config %s: %w", path, err)
	}
	return config, nil
}

// section is a table of the configuration, which is made if it is not there.
func section(config map[string]any, names ...string) map[string]any {
	for _, name := range names {
		inner, ok := config[name].(map[string]any)
		if !ok {
			inner = map[string]any{}
			config[name] = inner
		}
		config = inner
	}
	return config
}

// ready has netd tell whether steps can be put on the network.
func (s *settings) ready(ctx context.Context, socket string) error {
	if s.host {
		return nil
	}
	_, err := attach.Do(ctx, socket, attach.Request{Call: attach.Ready, Key: attach.Key{Engine: "cni"},
		Network: s.network})
	if err != nil {
		return fmt.Errorf("--network %s: %w", s.network, err)
	}
	return nil
}

// inside is what the process does that becomes buildkitd. Its number is known when it is there.
func (s *settings) inside(pid int) inside {
	in := inside{Run: s.run(), Temporary: s.tmp(), Argv: []string{s.buildkitd, "--config", s.run() + "/buildkitd.toml",
		"--root", s.root + "/state", "--addr", "unix://" + s.socket()}}
	oci := section(s.config, "worker", "oci")
	oci["enabled"], oci["binary"], oci["defaultCgroupParent"] = true, s.runtime, s.cgroup
	section(s.config, "worker", "containerd")["enabled"] = false
	section(s.config, "otel")["socketPath"] = s.run() + "/otel.sock"
	if s.host {
		oci["networkMode"] = "host"
		in.Argv = append(in.Argv, "--allow-insecure-entitlement", "network.host")
	} else {
		// By the file: buildkitd 0.34 reads the value of --oci-cni-config-path from a flag of another name.
		oci["networkMode"], oci["cniConfigPath"], oci["cniBinaryPath"] = "cni", s.run()+"/cni.conflist", s.run()+"/bin"
		in.Links = map[string]string{"bin/vethloom-cni": s.cni, "bin/" + loopbackName: s.self}
		in.ResolvConf = "nameserver " + resolver + "\n"
		// Named in the file, BuildKit gives it to steps as it is; of the host's it would leave it out, as a loopback's.
		section(s.config, "dns")["nameservers"] = []string{resolver}
	}
	in.Files = map[string]string{"cni.conflist": s.conflist(pid), "buildkitd.toml": encode(s.config)}
	return in
}

func encode(config map[string]any) string {
	var b bytes.Buffer
	if err := toml.NewEncoder(&b).Encode(config); err != nil { // it was decoded, or is ours
		panic(err)
	}
	return b.String()
}

// conflist puts steps on the network. netd finds their namespaces by way of buildkitd, whose mounts it does not see.
func (s *settings) conflist(pid int) string {
	text, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": "build", "plugins": []map[string]any{{
		"type": "vethloom-cni", "network": s.network, "socket": s.sockets,
		"netnsRoot": fmt.Sprintf("/proc/%d/root", pid)}}})
	if err != nil { // strings alone
		panic(err)
	}
	return string(text)
}
