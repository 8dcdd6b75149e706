package daemon

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/docker/cli/cli/config/types"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/registry"
	"github.com/vethloom/vethloom/internal/build/request"
)

// builds has images built by net-build, which is a client of this netd as it is for 'net build': the client of BuildKit
// is larger than netd, and whatever a Dockerfile does to it, netd goes on.
type builds struct{ cfg Config }

// buildGrace is how long net-build may take to end what it began.
const buildGrace = 30 * time.Second

// buildPrefix is what the names of directories of builds begin with.
const buildPrefix = "build-"

// clearBuilds removes what builds of a netd that was killed have left: it has credentials in it.
func clearBuilds(run string) error {
	all, err := os.ReadDir(run)
	if err != nil {
		return fmt.Errorf("look for what builds have left: %w", err)
	}
	for _, e := range all {
		if e.IsDir() && strings.HasPrefix(e.Name(), buildPrefix) {
			if err := os.RemoveAll(filepath.Join(run, e.Name())); err != nil {
				return fmt.Errorf("remove what a build has left: %w", err)
			}
		}
	}
	return nil
}

// BuildImage implements [server.Builds].
func (b builds) BuildImage(ctx context.Context, r server.BuildRequest, tar io.Reader, progress io.Writer) (id string,
	err error) {
	if err := checkBuild(r); err != nil {
		return "", err
	}
	program, err := request.Beside(request.Program)
	if err != nil {
		return "", &cnm.Error{Kind: cnm.ErrUnavailable, Field: "build", Reason: err.Error()}
	}
	// Credentials are in a file as long as the build goes on: on its command line or in its environment, others of the
	// host could read them.
	dir, err := os.MkdirTemp(b.cfg.Run, buildPrefix)
	if err != nil {
		return "", fmt.Errorf("build: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := writeCredentials(dir, r.Credentials); err != nil {
		return "", fmt.Errorf("build: %w", err)
	}
	idFile := filepath.Join(dir, "id")
	cmd := exec.CommandContext(ctx, program, buildArguments(r, b.cfg.Host, idFile)...)
	said := &ending{to: progress}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tar, io.Discard, said
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+dir, "REGISTRY_AUTH_FILE=", "HOME="+dir)
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = buildGrace
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return "", fmt.Errorf("the build failed: %w", cmp.Or(said.reason(), err))
	}
	return readID(idFile)
}

// ending passes on what net-build says, and keeps the end of it, where it says why it failed.
type ending struct {
	to   io.Writer
	kept []byte
}

// keptEnd is how much is kept, in bytes.
const keptEnd = 4 << 10

// Write implements [io.Writer].
func (e *ending) Write(b []byte) (int, error) {
	e.kept = append(e.kept, b...)
	if over := len(e.kept) - keptEnd; over > 0 {
		e.kept = append(e.kept[:0], e.kept[over:]...)
	}
	return e.to.Write(b)
}

// reason is the error that net-build ended with, or nil.
func (e *ending) reason() error {
	const before = "net: build: "
	at := bytes.LastIndex(e.kept, []byte(before))
	if at < 0 {
		return nil
	}
	return errors.New(strings.TrimSpace(string(bytes.ToValidUTF8(e.kept[at+len(before):], nil))))
}

// imageID is what an image's ID looks like.
var imageID = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func readID(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("learn the image's ID: %w", err)
	}
	if id := string(bytes.TrimSpace(b)); imageID.MatchString(id) {
		return id, nil
	}
	return "", errors.New("net-build told no ID of an image")
}

func buildArguments(r server.BuildRequest, host, idFile string) []string {
	args := []string{"--host=" + host, "--progress=plain", "--iidfile=" + idFile}
	one := func(flag, value string) {
		if value != "" {
			args = append(args, "--"+flag+"="+value)
		}
	}
	all := func(flag string, values []string) {
		for _, v := range values {
			one(flag, v)
		}
	}
	one("file", r.Dockerfile)
	one("target", r.Target)
	one("platform", r.Platform)
	one("network", r.Network)
	all("tag", r.Tags)
	all("build-arg", r.Args)
	all("label", r.Labels)
	all("add-host", r.ExtraHosts)
	all("cache-from", r.CacheFrom)
	if r.NoCache {
		args = append(args, "--no-cache")
	}
	if r.Pull {
		args = append(args, "--pull")
	}
	if r.Remote != "" {
		return append(args, "--", r.Remote)
	}
	return append(args, "--", "-")
}

// hubKey is what Docker's files have for Docker Hub.
const hubKey = "https://index.docker.io/v1/"

// writeCredentials writes Docker's file of credentials.
func writeCredentials(dir string, creds []registry.Credential) error {
	file := struct {
		Auths map[string]types.AuthConfig `json:"auths"`
	}{map[string]types.AuthConfig{}}
	for _, c := range creds {
		host := c.Host
		if host == "docker.io" {
			host = hubKey
		}
		file.Auths[host] = types.AuthConfig{Auth: "", IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken,
			Username: c.Username, Password: c.Password}
	}
	b, err := json.Marshal(file)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600)
}

// checkBuild refuses what net-build would take for something else: a remote context has to be a URL.
func checkBuild(r server.BuildRequest) error {
	for _, scheme := range []string{"https://", "http://", "git://", "ssh://"} {
		if r.Remote == "" || strings.HasPrefix(r.Remote, scheme) {
			return nil
		}
	}
	return &cnm.Error{Kind: cnm.ErrInvalid, Field: "remote", Value: r.Remote, Reason: "it is no URL of another host",
		Remedy: "send the context as a tar, or give one with https:// or ssh://"}
}
