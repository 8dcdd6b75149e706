package credential

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
)

// Credential is what a user has for a registry. Either the tokens or name and password are set.
type Credential struct {
	Username, Password string
	IdentityToken      string // an OAuth2 refresh token
	RegistryToken      string // a bearer token
}

// String leaves out what is secret.
func (c Credential) String() string { return "credential of " + c.Username }

// GoString leaves out what is secret.
func (c Credential) GoString() string { return c.String() }

// Hub is the host of Docker Hub.
const Hub = "docker.io"

// hubKey is what Docker's files have for it.
const hubKey = "https://index.docker.io/v1/"

// Key is what Docker's files have for a host.
func Key(host string) string {
	if host == Hub {
		return hubKey
	}
	return host
}

// Host is the host[:port] that somebody means who names a registry: without a scheme and a path, and Docker Hub by
// its one name; it is meant by an empty name too.
func Host(name string) (string, error) {
	host := strings.TrimSuffix(name, "/")
	for _, scheme := range []string{"https://", "http://"} {
		host = strings.TrimPrefix(host, scheme)
	}
	host, path, _ := strings.Cut(host, "/")
	if path != "" && path != "v1" && path != "v2" {
		return "", fmt.Errorf("registry %q has a path: a login is for a whole registry: give %s", name, host)
	}
	switch host = strings.ToLower(host); host {
	case "", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", "hub.docker.com":
		return Hub, nil
	}
	if strings.ContainsAny(host, "@ \t\n") {
		return "", fmt.Errorf("registry %q is no host[:port]", name)
	}
	return host, nil
}

// Files are those of one user.
type Files struct {
	Env     func(string) (string, bool)
	UID     int
	Timeout time.Duration // of a helper; 0: a minute, as some ask for a passphrase
}

// maxFile bounds a file of credentials, in bytes.
const maxFile = 1 << 20

// Find looks for what there is for a host, for an image of it (host/repository; "" for the host alone): in
// REGISTRY_AUTH_FILE where that is set, else in Docker's file and then in Podman's. It reports whether there is
// anything. An error says which file or helper is wrong; what is found without it counts all the same.
func (f Files) Find(ctx context.Context, host, image string) (c Credential, found bool, err error) {
	var problems []error
	for _, path := range f.paths() {
		file, err := load(path)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		if file == nil {
			continue
		}
		c, found, err := f.inFile(ctx, file, host, image)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", path, err))
		}
		if found {
			return c, true, nil
		}
	}
	return Credential{}, false, errors.Join(problems...)
}

// paths are the files, those that count first in front.
func (f Files) paths() []string {
	if p := f.env("REGISTRY_AUTH_FILE"); p != "" {
		return []string{p}
	}
	out := []string{f.docker()}
	if run := f.env("XDG_RUNTIME_DIR"); run != "" {
		out = append(out, filepath.Join(run, "containers", "auth.json"))
	} else {
		out = append(out, filepath.Join("/run/containers", strconv.Itoa(f.UID), "auth.json"))
	}
	if config := f.env("XDG_CONFIG_HOME"); config != "" {
		return append(out, filepath.Join(config, "containers", "auth.json"))
	}
	return append(out, filepath.Join(f.env("HOME"), ".config", "containers", "auth.json"))
}

func (f Files) env(name string) string {
	v, _ := f.Env(name)
	return v
}

// docker is the path of Docker's file.
func (f Files) docker() string {
	if dir := f.env("DOCKER_CONFIG"); dir != "" {
		return filepath.Join(dir, "config.json")
	}
	return filepath.Join(f.env("HOME"), ".docker", "config.json")
}

// read returns a file's content, nil for none.
func read(path string) ([]byte, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("credentials in %q: the path is not absolute: set HOME, DOCKER_CONFIG and "+
			"REGISTRY_AUTH_FILE to absolute paths", path)
	}
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read credentials: %w", err)
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("read credentials: %s is no regular file", path)
	}
	r, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read credentials: %w", err)
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read credentials: %w", err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("read credentials: %s has more than %d bytes", path, maxFile)
	}
	return b, nil
}

// load reads a file; nil for none.
func load(path string) (*configfile.ConfigFile, error) {
	b, err := read(path)
	if err != nil || len(bytes.TrimSpace(b)) == 0 {
		return nil, err
	}
	file := configfile.New(path)
	if err := file.LoadFromReader(bytes.NewReader(b)); err != nil {
		return nil, fmt.Errorf("read credentials: %s is malformed: %w", path, err)
	}
	return file, nil
}

// inFile looks into one file: a helper of the host, one for all, what the file itself has.
func (f Files) inFile(ctx context.Context, file *configfile.ConfigFile, host, image string) (c Credential, found bool,
	err error) {
	if name := helperFor(file, host); name != "" {
		c, found, err = f.helper(ctx, name).get(Key(host))
		if err != nil || found {
			return c, found, err
		}
	}
	for _, key := range keys(host, image) {
		if auth, ok := file.AuthConfigs[key]; ok && set(auth) {
			return fromFile(auth), true, nil
		}
	}
	for key, auth := range file.AuthConfigs { // as old versions of Docker wrote them
		if strings.Contains(key, "://") && set(auth) {
			if h, err := Host(key); err == nil && h == host {
				return fromFile(auth), true, nil
			}
		}
	}
	return Credential{}, false, nil
}

// helperFor is the name of the helper that has a host's credential; "" for none.
func helperFor(file *configfile.ConfigFile, host string) string {
	for _, key := range []string{Key(host), host} {
		if name, ok := file.CredentialHelpers[key]; ok {
			return name
		}
	}
	return file.CredentialsStore
}

// keys are those of a file that fit an image, the longest first: Podman has credentials of parts of a registry.
func keys(host, image string) []string {
	var out []string
	if at := strings.IndexAny(image, "@"); at >= 0 {
		image = image[:at]
	}
	if colon := strings.LastIndexByte(image, ':'); colon > strings.LastIndexByte(image, '/') {
		image = image[:colon]
	}
	for path := strings.TrimSuffix(image, "/"); strings.HasPrefix(path, host+"/"); {
		out = append(out, path)
		path = path[:strings.LastIndexByte(path, '/')]
	}
	if host == Hub {
		return append(out, hubKey, host, "index.docker.io")
	}
	return append(out, host)
}

func set(a types.AuthConfig) bool {
	return a.Username != "" || a.Password != "" || a.IdentityToken != "" || a.RegistryToken != ""
}

func fromFile(a types.AuthConfig) Credential {
	return Credential{a.Username, a.Password, a.IdentityToken, a.RegistryToken}
}
