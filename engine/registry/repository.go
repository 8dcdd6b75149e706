package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"
)

// maxManifest bounds a manifest and an index, in bytes. It is what registries take, too.
const maxManifest = 4 << 20

// Repository is one repository of a registry and of its mirrors. It is an image.Source. All of its methods may be
// called at the same time.
type Repository struct {
	client   *Client
	ref      reference
	creds    []Credential
	sessions []*session // in the order they are asked; the registry is the last

	// Report, if it is set before the first request, is told of each attempt that failed and will be repeated:
	// image.ActionRetrying with the digest and the reason.
	Report func(image.Progress)
}

var _ image.Source = (*Repository)(nil)

// Close closes connections that are not in use.
func (r *Repository) Close() {
	for _, s := range r.sessions {
		s.close()
	}
}

// each asks the endpoints in order until one has it.
func (r *Repository) each(ctx context.Context, part string, sessions []*session, ask func(*session) error) error {
	var failures []error
	for i, s := range sessions {
		err := r.patience(part, s, i+1 == len(sessions)).retry(ctx, func() error { return ask(s) })
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
		r.client.log.Debug("an endpoint has failed", "endpoint", s.ep.URL, "repository", s.ep.Repository, "err", err)
		failures = append(failures, err)
	}
	return together(failures)
}

func (r *Repository) patience(part string, s *session, last bool) *patience {
	p := &patience{client: r.client, session: s, attempts: r.client.attempts}
	if !last {
		p.attempts = min(p.attempts, mirrorAttempts)
	}
	p.retrying = func(err error, wait time.Duration) {
		r.client.log.Debug("trying again", "endpoint", s.ep.URL, "part", part, "wait", wait, "err", err)
		if r.Report != nil {
			r.Report(image.Progress{Part: part, Action: image.ActionRetrying, Text: err.Error()})
		}
	}
	return p
}

// manifestTypes are the forms of manifests and indexes that are asked for.
var manifestTypes = []types.MediaType{types.OCIManifestSchema1, types.OCIImageIndex, types.DockerManifestSchema2,
	types.DockerManifestList}

func acceptManifests() http.Header {
	var all []string
	for _, t := range manifestTypes {
		all = append(all, string(t))
	}
	return http.Header{"Accept": {strings.Join(all, ", ")}}
}

// validTag is a tag of the OCI distribution specification.
var validTag = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)

// target is a tag or a digest that a manifest is asked for by.
type target struct {
	text   string
	digest *v1.Hash
}

func parseTarget(ref string) (target, error) {
	if h, err := v1.NewHash(ref); err == nil {
		return target{ref, &h}, nil
	}
	if !validTag.MatchString(ref) {
		return target{}, &cnm.Error{Kind: cnm.ErrInvalid, Field: "tag or digest", Value: said(ref),
			Reason: "is neither", Remedy: "use a tag such as 1.2, or sha256:… with 64 hexadecimal digits"}
	}
	return target{text: ref}, nil
}

// String is the target as it follows a repository's name.
func (t target) String() string {
	if t.digest != nil {
		return "@" + t.text
	}
	return ":" + t.text
}

// Manifest returns a manifest or an index by tag or digest (sha256:…), with what it is. It has at most 4 MiB, the
// digest that it was asked for by, and a media type that is one of an image's manifest or index.
func (r *Repository) Manifest(ctx context.Context, ref string) (d v1.Descriptor, raw []byte, err error) {
	t, err := parseTarget(ref)
	if err != nil {
		return d, nil, err
	}
	sessions := r.sessions
	if t.digest == nil {
		sessions = nil
		for _, s := range r.sessions {
			if s.ep.resolve || len(r.sessions) == 1 {
				sessions = append(sessions, s)
			}
		}
	}
	err = r.each(ctx, "", sessions, func(s *session) (err error) {
		d, raw, err = s.manifest(ctx, t)
		return err
	})
	return d, raw, err
}

// manifest asks one endpoint.
func (s *session) manifest(ctx context.Context, t target) (d v1.Descriptor, raw []byte, err error) {
	op := "get the manifest of " + s.ep.Repository + t.String()
	resp, err := s.do(ctx, request{op: op, method: http.MethodGet, path: "manifests/" + t.text,
		header: acceptManifests(), limit: maxManifest})
	if err != nil {
		return d, nil, err
	}
	defer resp.Body.Close()
	raw, err = io.ReadAll(resp.Body)
	if errors.Is(err, errTooLong) {
		err = contentError("the manifest has more than %d bytes", maxManifest)
	}
	if err == nil {
		d, err = checkManifest(resp.Header, raw, t)
	}
	if err != nil {
		return d, nil, s.explain(ctx, op, &call{}, err)
	}
	return d, raw, nil
}

// checkManifest compares what came with what was asked for, and with what the answer says of itself.
func checkManifest(h http.Header, raw []byte, t target) (d v1.Descriptor, err error) {
	if looksLikeHTML("", raw) {
		return d, noRegistry("answers with an HTML page")
	}
	d.Size = int64(len(raw))
	if d.Digest, _, err = v1.SHA256(bytes.NewReader(raw)); err != nil {
		return d, fmt.Errorf("compute a manifest's digest: %w", err)
	}
	want := t.digest
	if said, err := v1.NewHash(h.Get("Docker-Content-Digest")); want == nil && err == nil {
		want = &said
	}
	if want != nil && want.Algorithm != d.Digest.Algorithm {
		return d, contentError("a digest of %s is not known here", want.Algorithm)
	}
	if want != nil && *want != d.Digest {
		return d, contentError("the manifest has the digest %s, where %s was asked for or announced", d.Digest, want)
	}
	d.MediaType, err = manifestType(mediaType(h.Get("Content-Type")), raw)
	return d, err
}

// manifestType is what a manifest is. Header and body must agree, and the body must not be two things at once: else
// others could take the same digest for another image.
func manifestType(header string, raw []byte) (types.MediaType, error) {
	var body struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     types.MediaType `json:"mediaType"`
		Config        json.RawMessage `json:"config"`
		Layers        json.RawMessage `json:"layers"`
		Manifests     json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &body); err != nil {
		return "", contentError("the answer is no manifest but %s", cmpText(header, "something without a media type"))
	}
	said := types.MediaType(header)
	switch {
	case said.IsSchema1() || body.SchemaVersion == 1:
		return "", contentError("the manifest is of Docker's schema 1, which nobody has written since 2017")
	case body.Manifests != nil && (body.Config != nil || body.Layers != nil):
		return "", contentError("the manifest is an index as well")
	case !said.IsImage() && !said.IsIndex(): // some servers of files know no better
		said = body.MediaType
	case body.MediaType != "" && body.MediaType != said:
		return "", contentError("the manifest is %s by its own word and %s by the server's", body.MediaType, said)
	}
	if said == "" {
		said = types.OCIManifestSchema1
		if body.Manifests != nil {
			said = types.OCIImageIndex
		}
	}
	switch {
	case said.IsIndex() && body.Manifests != nil, said.IsImage() && body.Config != nil:
		return said, nil
	}
	return "", contentError("the answer is no manifest of an image but %s", cmpText(header, string(said)))
}

// cmpText is the first text that is there, cleaned.
func cmpText(a, b string) string {
	if a == "" {
		a = b
	}
	return said(a)
}
