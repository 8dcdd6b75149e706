// Package build has images built by BuildKit, and gives them to netd.
package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/docker/cli/cli/config/types"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/cmd/buildctl/build"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/session/auth/authprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	"github.com/moby/buildkit/solver/errdefs"

	netd "github.com/vethloom/vethloom/api/client"
	"github.com/vethloom/vethloom/internal/build/builder"
	"github.com/vethloom/vethloom/internal/build/request"
	"github.com/vethloom/vethloom/internal/cli/credential"
	"github.com/vethloom/vethloom/internal/cli/show"
	"github.com/vethloom/vethloom/plugin/attach"
)

// Config is one build and its surroundings.
type Config struct {
	request.Request
	Host string // of netd
	In   io.Reader
	Out  io.Writer // the image's ID, or the result as a tar
	Err  *os.File  // progress
	Env  func(string) (string, bool)

	dockerfile []byte // that is known here: it is no part of an archive, nor elsewhere

	mu       sync.Mutex
	problems []error // with credentials
}

// Run builds. When the context ends, so does the build on buildkitd, and nothing of it is loaded.
func Run(ctx context.Context, c *Config) (err error) {
	if err := c.Check(); err != nil {
		return err
	}
	opt, err := c.options()
	if err != nil {
		return err
	}
	out, err := c.outputs()
	if err != nil {
		return err
	}
	opt.Exports = out.exports
	closeNetd, err := c.netd(ctx, &opt, out)
	if err != nil {
		return err
	}
	defer closeNetd()
	b, err := builder.Open(ctx, builder.Config{Request: &c.Request, Env: c.Env, Say: c.Err, Networks: c.attachments()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	id, err := c.solve(ctx, b, opt, out)
	if err != nil {
		return err
	}
	return c.tell(id, out)
}

// netd connects to netd, before the work: it gets the image, and has images that the Dockerfile names. Only for the
// latter nobody needs it.
func (c *Config) netd(ctx context.Context, opt *client.SolveOpt, out *outputs) (closeConn func(), err error) {
	var names []string
	if !c.Pull {
		names = c.references(c.dockerfile)
	}
	if out.image == nil && len(names) == 0 {
		return func() {}, nil
	}
	conn, err := netd.Dial(ctx, c.Host, netd.Options{})
	if err != nil {
		if out.image == nil {
			return func() {}, nil
		}
		return nil, err
	}
	if out.image != nil {
		out.image.images = conn.Images
	}
	if err := c.offer(ctx, opt, conn.Images, names); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return func() { conn.Close() }, nil
}

// solve has buildkitd build, and returns the image's ID, if there is one.
func (c *Config) solve(ctx context.Context, b *builder.Builder, opt client.SolveOpt, out *outputs) (string, error) {
	// A load that is not finished must be given up, or netd would take the part of an archive for the whole.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out.begin(ctx)
	p, err := c.progress()
	if err != nil {
		return "", err
	}
	resp, err := b.Solve(ctx, nil, opt, p.statuses)
	p.end(err)
	if refused := out.refused(); refused != nil {
		return "", refused
	}
	if err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		for _, s := range errdefs.Sources(err) {
			if e := s.Print(c.plain()); e != nil {
				return "", e
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		return "", errors.Join(append([]error{b.Explain(err)}, c.problems...)...)
	}
	return resp.ExporterResponse[exptypes.ExporterImageConfigDigestKey], out.finish()
}

// tell prints the image's ID, and writes it into the file for it.
func (c *Config) tell(id string, out *outputs) error {
	if c.IIDFile != "" {
		if id == "" {
			return fmt.Errorf("--iidfile %s: there is no image; leave it out, or --output", c.IIDFile)
		}
		if err := os.WriteFile(c.IIDFile, []byte(id), 0o644); err != nil {
			return fmt.Errorf("--iidfile: %w", err)
		}
	}
	if id == "" || out.piped {
		return nil
	}
	return show.Println(c.Out, id)
}

// options are what is asked of any buildkitd.
func (c *Config) options() (client.SolveOpt, error) {
	opt := client.SolveOpt{Frontend: "dockerfile.v0", FrontendAttrs: map[string]string{}}
	if err := errors.Join(c.inputs(&opt), c.attributes(opt.FrontendAttrs)); err != nil {
		return opt, err
	}
	opt.Session = append(opt.Session, authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{
		AuthConfigProvider: c.credential}))
	if len(c.Secrets) > 0 {
		secrets, err := build.ParseSecret(c.Secrets)
		if err != nil {
			return opt, fmt.Errorf("--secret: %w", err)
		}
		opt.Session = append(opt.Session, secrets)
	}
	if len(c.SSH) > 0 {
		agents, err := build.ParseSSH(c.SSH)
		if err != nil {
			return opt, fmt.Errorf("--ssh: %w", err)
		}
		provider, err := sshprovider.NewSSHAgentProvider(agents)
		if err != nil {
			return opt, fmt.Errorf("--ssh: %w", err)
		}
		opt.Session = append(opt.Session, provider)
	}
	var err error
	if opt.CacheImports, err = build.ParseImportCache(c.CacheFrom); err != nil {
		return opt, fmt.Errorf("--cache-from: %w", err)
	}
	if opt.CacheExports, err = build.ParseExportCache(c.CacheTo); err != nil {
		return opt, fmt.Errorf("--cache-to: %w", err)
	}
	if c.Network == "host" {
		opt.AllowedEntitlements = append(opt.AllowedEntitlements, "network.host")
	}
	return opt, nil
}

// credential is what the user has for a registry, as 'net pull' finds it. What is wrong with a file or helper is told
// when the build fails: the image may be one that everybody can have.
func (c *Config) credential(ctx context.Context, host string, scopes []string, _ authprovider.ExpireCachedAuthCheck) (
	types.AuthConfig, error) {
	host, err := credential.Host(host)
	if err != nil {
		return types.AuthConfig{}, err
	}
	image := ""
	for _, scope := range scopes { // repository:NAME:pull (distribution's token specification)
		if parts := strings.Split(scope, ":"); len(parts) == 3 && parts[0] == "repository" {
			image = host + "/" + parts[1]
		}
	}
	found, _, err := credential.Files{Env: c.Env, UID: os.Getuid()}.Find(ctx, host, image)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.problems = append(c.problems, err)
	}
	return types.AuthConfig{ServerAddress: host, Username: found.Username, Password: found.Password,
		IdentityToken: found.IdentityToken, RegistryToken: found.RegistryToken}, nil
}

// attachments is netd's socket for them, which is beside that of its API.
func (c *Config) attachments() string {
	if path, err := netd.SocketPath(c.Host); err == nil && c.Host != netd.DefaultHost {
		return filepath.Join(filepath.Dir(path), filepath.Base(attach.Socket))
	}
	return attach.Socket
}
