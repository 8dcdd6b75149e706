package build

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/ociindex"
	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	"github.com/moby/buildkit/session/upload/uploadprovider"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
)

// What the Dockerfile frontend calls its two directories, and a Dockerfile that comes by itself.
const (
	contextName    = "context"
	dockerfileName = "dockerfile"
	dockerfile     = "Dockerfile"
)

// maxDockerfile bounds a Dockerfile that is read here, in bytes. BuildKit has no use for one of that size either.
const maxDockerfile = 4 << 20

// contextsCapability is what a frontend of `# syntax=` must have so that it is asked for further contexts.
const contextsCapability = "moby.buildkit.frontend.contexts+forward"

var web = regexp.MustCompile(`^https?://`)

// inputs are the context, the Dockerfile and further contexts. What .dockerignore leaves out, the frontend leaves out.
func (c *Config) inputs(opt *client.SolveOpt) error {
	opt.LocalMounts = map[string]fsutil.FS{}
	attrs := opt.FrontendAttrs
	if err := c.mainContext(opt); err != nil {
		return err
	}
	if c.File == "-" {
		text, err := io.ReadAll(io.LimitReader(c.In, maxDockerfile+1))
		if err != nil {
			return fmt.Errorf("read the Dockerfile: %w", err)
		}
		if len(text) > maxDockerfile {
			return fmt.Errorf("--file -: a Dockerfile of more than %d bytes", maxDockerfile)
		}
		opt.LocalMounts[dockerfileName] = oneFile{dockerfile, text}
		c.dockerfile = text
		// Of a context that is fetched, the frontend would take the Dockerfile, too.
		attrs["filename"], attrs["dockerfilekey"] = dockerfile, dockerfileName
	}
	for _, v := range c.Contexts {
		name, value, _ := strings.Cut(v, "=")
		if err := namedContext(opt, name, value); err != nil {
			return fmt.Errorf("--build-context %q: %w", v, err)
		}
	}
	if len(c.Contexts) > 0 {
		attrs["frontend.caps"] = contextsCapability
	}
	return nil
}

func (c *Config) mainContext(opt *client.SolveOpt) error {
	attrs := opt.FrontendAttrs
	if c.Context == "-" || remote(c.Context) {
		attrs[contextName] = c.Context
		if c.Context == "-" {
			// An archive, or a Dockerfile alone: the frontend looks which.
			in, err := c.spool()
			if err != nil {
				return err
			}
			up := uploadprovider.New()
			attrs[contextName] = up.Add(in)
			opt.Session = append(opt.Session, up)
		}
		if c.File != "" {
			attrs["filename"] = c.File
		}
		return nil
	}
	dir, err := fsutil.NewFS(c.Context)
	if err != nil {
		return fmt.Errorf("context %q: %w; want a directory, - or a URL", c.Context, err)
	}
	opt.LocalMounts[contextName], opt.LocalMounts[dockerfileName] = dir, dir
	if c.File == "-" {
		return nil
	}
	file := c.File
	if file == "" {
		file = filepath.Join(c.Context, dockerfile)
	}
	st, err := os.Stat(file)
	if err == nil && !st.Mode().IsRegular() {
		err = errors.New("is no regular file")
	}
	if err == nil && st.Size() <= maxDockerfile { // what is larger is refused by BuildKit
		c.dockerfile, err = os.ReadFile(file)
	}
	if err != nil {
		return fmt.Errorf("the Dockerfile %s: %w; name it with --file", file, err)
	}
	if opt.LocalMounts[dockerfileName], err = fsutil.NewFS(filepath.Dir(file)); err != nil {
		return fmt.Errorf("--file %q: %w", c.File, err)
	}
	attrs["filename"] = filepath.Base(file)
	return nil
}

// remote reports whether buildkitd fetches a context. A directory of the name is meant first.
func remote(context string) bool {
	if _, err := os.Stat(context); err == nil {
		return false
	}
	_, git, _ := dfgitutil.ParseGitRef(context)
	return git || web.MatchString(context)
}

// namedContext adds a context that a Dockerfile calls by a name.
func namedContext(opt *client.SolveOpt, name, value string) error {
	const layout = "oci-layout://"
	key := "context:" + name
	switch {
	case strings.HasPrefix(value, layout):
		ref, store, err := openLayout(strings.TrimPrefix(value, layout))
		if err != nil {
			return err
		}
		if opt.OCIStores == nil {
			opt.OCIStores = map[string]content.Store{}
		}
		id := fmt.Sprintf("layout%d", len(opt.OCIStores))
		opt.OCIStores[id] = store
		opt.FrontendAttrs[key] = layout + id + "@" + ref
	case strings.HasPrefix(value, "docker-image://"), strings.HasPrefix(value, "target:"), remote(value):
		opt.FrontendAttrs[key] = value
	default:
		dir, err := fsutil.NewFS(value)
		if err != nil {
			return fmt.Errorf("%w; want a directory, docker-image://, oci-layout:// or a URL", err)
		}
		opt.LocalMounts[name] = dir
		opt.FrontendAttrs[key] = "local:" + name
	}
	return nil
}

// openLayout opens an OCI image layout, and finds what DIRECTORY[:TAG|@DIGEST] names.
func openLayout(value string) (digest string, _ content.Store, err error) {
	dir, digest, byDigest := strings.Cut(value, "@")
	tag := ""
	if at := strings.LastIndexByte(dir, ':'); !byDigest && at > strings.LastIndexByte(dir, '/') {
		dir, tag = dir[:at], dir[at+1:]
	}
	if _, err := os.Stat(filepath.Join(dir, "index.json")); err != nil {
		return "", nil, fmt.Errorf("an OCI image layout: %w", err)
	}
	if !byDigest {
		if digest, err = tagged(ociindex.NewStoreIndex(dir), tag); err != nil {
			return "", nil, fmt.Errorf("%s: %w", dir, err)
		}
	}
	store, err := local.NewStore(dir)
	if err != nil {
		return "", nil, fmt.Errorf("open the OCI image layout: %w", err)
	}
	return digest, store, nil
}

// tagged finds a manifest in a layout; without a tag the only one, or latest.
func tagged(index ociindex.StoreIndex, tag string) (digest string, err error) {
	if tag == "" {
		if only, err := index.GetSingle(); err == nil && only != nil {
			return only.Digest.String(), nil
		}
		tag = "latest"
	}
	desc, err := index.Get(tag)
	if err != nil {
		return "", fmt.Errorf("look for tag %s: %w", tag, err)
	}
	if desc == nil {
		return "", fmt.Errorf("there is no tag %s", tag)
	}
	return desc.Digest.String(), nil
}

// attributes are what the frontend is asked for.
func (c *Config) attributes(attrs map[string]string) error {
	for key, value := range map[string]string{"target": c.Target, "platform": c.Platform} {
		if value != "" {
			attrs[key] = value
		}
	}
	if c.NoCache {
		attrs["no-cache"] = ""
	}
	if c.Pull {
		attrs["image-resolve-mode"] = "pull"
	}
	if c.Network == "none" || c.Network == "host" {
		attrs["force-network-mode"] = c.Network
	}
	for _, v := range c.BuildArgs {
		name, value, ok := strings.Cut(v, "=")
		if !ok {
			if value, ok = c.Env(name); !ok {
				continue // the Dockerfile's own value stays
			}
		}
		attrs["build-arg:"+name] = value
	}
	for _, v := range c.Labels {
		name, value, _ := strings.Cut(v, "=")
		attrs["label:"+name] = value
	}
	var hosts []string
	for _, v := range c.AddHosts {
		at := strings.IndexAny(v, ":=")
		hosts = append(hosts, v[:at]+"="+strings.Trim(v[at+1:], "[]"))
	}
	if len(hosts) == 0 {
		return nil
	}
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	if err := w.Write(hosts); err != nil {
		return fmt.Errorf("--add-host: %w", err)
	}
	w.Flush()
	attrs["add-hosts"] = strings.TrimSpace(b.String())
	return nil
}

// oneFile is a directory with one file, in memory.
type oneFile struct {
	name string
	text []byte
}

// Walk visits the file, as [fsutil.FS] says.
func (f oneFile) Walk(_ context.Context, target string, visit fs.WalkDirFunc) error {
	if target != "" && target != "." && target != "/" && target != f.name {
		return nil
	}
	st := &types.Stat{Path: f.name, Mode: 0o644, Size: int64(len(f.text))}
	return visit(f.name, &fsutil.DirEntryInfo{Stat: st}, nil)
}

// Open opens it.
func (f oneFile) Open(path string) (io.ReadCloser, error) {
	if path != f.name {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return io.NopCloser(bytes.NewReader(f.text)), nil
}
