package build

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client"

	netd "github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
)

// outputs are where the result goes.
type outputs struct {
	exports []client.ExportEntry
	image   *load // nil: not into netd's images
	piped   bool  // to standard output
}

// outputs reads --output. Without any, the image is for netd.
func (c *Config) outputs() (*outputs, error) {
	var names []string
	for _, t := range c.Tags {
		ref, err := reference.ParseNormalizedNamed(t)
		if err != nil {
			return nil, fmt.Errorf("--tag %q: %w", t, err)
		}
		if _, ok := ref.(reference.Digested); ok {
			return nil, fmt.Errorf("--tag %q: what is built has the digest that it has; want NAME[:TAG]", t)
		}
		names = append(names, reference.TagNameOnly(ref).String())
	}
	out, asked := &outputs{}, c.Outputs
	if len(asked) == 0 {
		asked = []string{"type=docker"}
	}
	for _, text := range asked {
		e, err := c.output(out, text, strings.Join(names, ","))
		if err != nil {
			return nil, fmt.Errorf("--output %q: %w", text, err)
		}
		out.exports = append(out.exports, e)
	}
	return out, nil
}

func (c *Config) output(out *outputs, text, names string) (e client.ExportEntry, err error) {
	if e.Type, e.Attrs, err = parseOutput(text); err != nil {
		return e, err
	}
	dest := e.Attrs["dest"]
	delete(e.Attrs, "dest")
	switch e.Type {
	case client.ExporterLocal:
		if dest == "" || dest == "-" {
			return e, errors.New("want dest=DIRECTORY")
		}
		e.OutputDir = dest
		return e, nil
	case client.ExporterDocker, client.ExporterOCI, client.ExporterImage:
		if _, ok := e.Attrs["name"]; !ok && names != "" {
			e.Attrs["name"] = names
		}
	case client.ExporterTar:
	default:
		return e, errors.New("want a type of local, tar, oci, docker, image or registry")
	}
	switch {
	case e.Type == client.ExporterImage:
		return e, nil
	case e.Type == client.ExporterDocker && dest == "":
		if out.image != nil {
			return e, errors.New("the image is for netd already")
		}
		out.image = &load{}
		e.Output = out.image.open
		return e, nil
	case dest == "" || dest == "-":
		if out.piped {
			return e, errors.New("standard output is taken already")
		}
		out.piped = true
		e.Output = func(map[string]string) (io.WriteCloser, error) { return unclosed{c.Out}, nil }
		return e, nil
	}
	e.Output = func(map[string]string) (io.WriteCloser, error) { return os.Create(dest) }
	return e, nil
}

// parseOutput reads one value: KEY=VALUE with commas between them, or a directory, or -.
func parseOutput(text string) (kind string, attrs map[string]string, err error) {
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return "", nil, err
	}
	if len(fields) == 1 && !strings.HasPrefix(text, "type=") {
		if text == "-" {
			return client.ExporterTar, map[string]string{"dest": text}, nil
		}
		return client.ExporterLocal, map[string]string{"dest": text}, nil
	}
	attrs = map[string]string{}
	for _, f := range fields {
		key, value, ok := strings.Cut(f, "=")
		if !ok {
			return "", nil, fmt.Errorf("%q: want KEY=VALUE", f)
		}
		attrs[strings.ToLower(key)] = value
	}
	kind = attrs["type"]
	delete(attrs, "type")
	if kind == "registry" {
		kind, attrs["push"] = client.ExporterImage, "true"
	}
	return kind, attrs, nil
}

type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }

// begin says how long what the outputs begin may last.
func (o *outputs) begin(ctx context.Context) {
	if o.image != nil {
		o.image.ctx = ctx
	}
}

// refused is why netd did not take the image.
func (o *outputs) refused() error {
	if o.image == nil {
		return nil
	}
	o.image.mu.Lock()
	defer o.image.mu.Unlock()
	return o.image.err
}

// finish has netd take the image, which it has all of.
func (o *outputs) finish() error {
	if o.image == nil {
		return nil
	}
	return o.image.finish()
}

// load is an image on its way from buildkitd to netd, as an archive that is nowhere written down here.
type load struct {
	images apiv1.ImagesClient
	ctx    context.Context //nolint:containedctx // of the build: BuildKit opens outputs without one

	mu     sync.Mutex
	stream apiv1.Images_LoadClient
	err    error // netd's
}

func (l *load) open(map[string]string) (io.WriteCloser, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	stream, err := l.images.Load(l.ctx)
	if err != nil {
		l.err = netd.Explain(err)
		return nil, l.err
	}
	l.stream = stream
	return l, nil
}

// maxChunk is the most that one message has, in bytes.
const maxChunk = 256 << 10

// Write sends a part of the archive.
func (l *load) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for done := 0; done < len(b); {
		n := min(maxChunk, len(b)-done)
		if err := l.stream.Send(&apiv1.LoadRequest{Data: b[done : done+n]}); err != nil {
			if errors.Is(err, io.EOF) { // the answer tells why
				_, err = l.stream.CloseAndRecv()
			}
			l.err = l.named(err)
			return done, l.err
		}
		done += n
	}
	return len(b), nil
}

// Close is called when buildkitd has sent all. Whether the build has succeeded is known later.
func (l *load) Close() error { return nil }

func (l *load) finish() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stream == nil {
		return errors.New("buildkitd has sent no image: its answer is without one")
	}
	_, err := l.stream.CloseAndRecv()
	return l.named(err)
}

func (l *load) named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("load the image into netd: %w", netd.Explain(err))
}
