package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"
)

const parallelBlobs = 5 // of a push

// Content is an image that is pushed.
type Content interface {
	// Manifest returns the manifest of an image (no index), byte for byte, with its media type, digest and size.
	Manifest() (v1.Descriptor, []byte)
	// Blob opens the configuration or a layer that the manifest names, at its beginning. It may be called several times
	// for the same one, and by several goroutines.
	Blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error)
	// KnownIn lists repositories that are known to have a blob, such as docker.io/library/busybox: a registry takes it
	// from another repository of its own. Those of other registries are left out by who pushes.
	KnownIn(h v1.Hash) []string
	// Referrers are manifests whose subject is this one (signatures, lists of contents); they are pushed after it, by
	// their digests.
	Referrers() []Content
}

// Push sends an image to the registry, never to a mirror: the blobs that are not there, several at once, then the
// manifest under the tag ("": by its digest alone), then its referrers. It returns the manifest's digest and size in
// bytes. What is reported has the digest of a blob as its part; report is called by several goroutines, and may be nil.
func (r *Repository) Push(ctx context.Context, tag string, c Content, report func(image.Progress)) (
	h v1.Hash, size int64, err error) {
	if tag != "" && !validTag.MatchString(tag) {
		return h, 0, &cnm.Error{Kind: cnm.ErrInvalid, Field: "tag", Value: said(tag), Reason: "is malformed",
			Remedy: "use letters, digits, '.', '_' and '-', at most 128"}
	}
	if report == nil {
		report = func(image.Progress) {}
	}
	p, err := r.newPusher(c, report)
	if err != nil {
		return h, 0, err
	}
	defer func() { p.session.close() }()
	if err := p.enter(ctx); err != nil {
		return h, 0, err
	}
	d, err := p.image(ctx, tag, c)
	if err != nil {
		return h, 0, err
	}
	for _, referrer := range c.Referrers() {
		if err := p.referrer(ctx, d, referrer); err != nil {
			return h, 0, fmt.Errorf("the image is pushed, what refers to it is not: %w", err)
		}
	}
	return d.Digest, d.Size, nil
}

// pusher is one push.
type pusher struct {
	repository *Repository
	session    *session
	report     func(image.Progress)
	mounts     map[v1.Hash][]string // paths of repositories of the registry, by what they have
}

// newPusher finds the registry, and what to ask it for: a token has to be for the repositories too that blobs are
// taken from.
func (r *Repository) newPusher(c Content, report func(image.Progress)) (*pusher, error) {
	all, err := r.client.settings.endpoints(r.ref, true)
	if err != nil {
		return nil, err
	}
	ep := all[0]
	p := &pusher{repository: r, report: report, mounts: map[v1.Hash][]string{}}
	scopes := []string{"repository:" + ep.Repository + ":push,pull"}
	for _, one := range append([]Content{c}, c.Referrers()...) {
		_, raw := one.Manifest()
		m, err := parsePushed(raw)
		if err != nil {
			return nil, err
		}
		for _, d := range m.blobs() {
			for _, name := range one.KnownIn(d.Digest) {
				from, err := parseReference(name)
				if err != nil || from.host != r.ref.host || from.repository == ep.Repository ||
					len(p.mounts[d.Digest]) == maxMounts {
					continue
				}
				p.mounts[d.Digest] = append(p.mounts[d.Digest], from.repository)
				if scope := "repository:" + from.repository + ":pull"; !slices.Contains(scopes, scope) &&
					len(scopes) < maxScopes {
					scopes = append(scopes, scope)
				}
			}
		}
	}
	p.session = r.client.newSession(ep, r.creds, scopes...)
	return p, nil
}

// enter gets a token. A server of tokens that gives none for all that was asked for is asked for the repository alone,
// and nothing is taken from others.
func (p *pusher) enter(ctx context.Context) error {
	if len(p.session.scopes) == 1 {
		return nil // the first request does it
	}
	c := &call{}
	_, err := p.session.client(ctx, c)
	if err == nil {
		return nil
	}
	var e *Error
	err = p.session.explain(ctx, "ask to push to "+p.session.ep.Repository, c, err)
	if errors.As(err, &e) && (e.Kind == KindUnauthorized || e.Kind == KindForbidden || e.Kind == KindRefused) {
		p.session.close()
		p.session = p.repository.client.newSession(p.session.ep, p.repository.creds, p.session.scopes[0])
		p.mounts = nil
		return nil
	}
	if errors.As(err, &e) && e.passing() {
		return nil // the first request tries again
	}
	return err
}

// pushed is what a push looks at in a manifest.
type pushed struct {
	MediaType    types.MediaType   `json:"mediaType"`
	ArtifactType string            `json:"artifactType"`
	Config       v1.Descriptor     `json:"config"`
	Layers       []v1.Descriptor   `json:"layers"`
	Subject      *v1.Descriptor    `json:"subject"`
	Annotations  map[string]string `json:"annotations"`
}

func parsePushed(raw []byte) (m pushed, err error) {
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, fmt.Errorf("read the manifest to push: %w", err)
	}
	if m.Config.Digest.Hex == "" {
		return m, &cnm.Error{Kind: cnm.ErrInvalid, Reason: "what is to be pushed is no manifest of an image",
			Remedy: "push one image of an index"}
	}
	return m, nil
}

// blobs are the configuration and the layers, each once. Layers that a registry does not hold (their URLs say who does)
// are left out.
func (m pushed) blobs() []v1.Descriptor {
	var all []v1.Descriptor
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		same := func(o v1.Descriptor) bool { return o.Digest == d.Digest }
		if d.MediaType.IsDistributable() && !slices.ContainsFunc(all, same) {
			all = append(all, d)
		}
	}
	return all
}

// image sends the blobs of a manifest and the manifest.
func (p *pusher) image(ctx context.Context, tag string, c Content) (v1.Descriptor, error) {
	d, raw := c.Manifest()
	m, err := parsePushed(raw)
	if err != nil {
		return d, err
	}
	blobs := m.blobs()
	for _, b := range blobs {
		p.report(image.Progress{Part: b.Digest.String(), Action: image.ActionWaiting, Total: b.Size})
	}
	group, blobCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallelBlobs)
	for _, b := range blobs {
		group.Go(func() error { return p.blob(blobCtx, c, b) })
	}
	if err := group.Wait(); err != nil {
		return d, err
	}
	if tag == "" {
		tag = d.Digest.String()
	}
	_, err = p.manifest(ctx, target{text: tag}, d.MediaType, raw)
	return d, err
}

// manifest puts a manifest, and reports whether the registry lists it among the referrers of its subject.
func (p *pusher) manifest(ctx context.Context, t target, mt types.MediaType, raw []byte) (listed bool, err error) {
	op := "put the manifest of " + p.session.ep.Repository + t.String()
	err = p.patience("").retry(ctx, func() error {
		resp, err := p.session.do(ctx, request{op: op, method: http.MethodPut, path: "manifests/" + t.text,
			header: http.Header{"Content-Type": {string(mt)}}, size: int64(len(raw)), limit: maxSmallBody,
			accept: []int{http.StatusCreated, http.StatusAccepted, http.StatusNoContent},
			body:   func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }})
		if err != nil {
			return err
		}
		listed = resp.Header.Get("OCI-Subject") != ""
		return resp.Body.Close()
	})
	return listed, err
}

func (p *pusher) patience(part string) *patience {
	all := p.repository.patience(part, p.session, true)
	all.retrying = func(err error, _ time.Duration) {
		p.report(image.Progress{Part: part, Action: image.ActionRetrying, Text: err.Error()})
	}
	return all
}

// referrer sends what refers to the image. A registry without the API of referrers does not know what does: there a
// tag has the list (OCI distribution specification, referrers tag schema).
func (p *pusher) referrer(ctx context.Context, subject v1.Descriptor, c Content) error {
	d, raw := c.Manifest()
	m, err := parsePushed(raw)
	if err != nil {
		return err
	}
	if m.Subject == nil || m.Subject.Digest != subject.Digest {
		return &cnm.Error{Kind: cnm.ErrInvalid, Field: "referrer", Value: d.Digest.String(),
			Reason: "does not refer to the image that is pushed", Remedy: "leave it out"}
	}
	if _, err := p.image(ctx, "", c); err != nil {
		return err
	}
	has, err := p.hasReferrersAPI(ctx, subject.Digest)
	if err != nil || has {
		return err
	}
	d.Annotations, d.ArtifactType = m.Annotations, m.ArtifactType
	if d.ArtifactType == "" {
		d.ArtifactType = string(m.Config.MediaType)
	}
	return p.addReferrer(ctx, subject.Digest, d)
}

// hasReferrersAPI asks the registry.
func (p *pusher) hasReferrersAPI(ctx context.Context, h v1.Hash) (has bool, err error) {
	op := "list the referrers of " + p.session.ep.Repository + "@" + h.String()
	err = p.patience("").retry(ctx, func() error {
		resp, err := p.session.do(ctx, request{op: op, method: http.MethodGet, path: "referrers/" + h.String(),
			limit: maxManifest, header: http.Header{"Accept": {string(types.OCIImageIndex)}}})
		if noReferrers(err) {
			return nil
		}
		if err != nil {
			return err
		}
		has = mediaType(resp.Header.Get("Content-Type")) == string(types.OCIImageIndex)
		return resp.Body.Close()
	})
	return has, err
}

// addReferrer puts a descriptor into the index that has the tag of the subject's referrers. Two who do so at once may
// lose one of them, as the specification says; there is no way to know.
func (p *pusher) addReferrer(ctx context.Context, h v1.Hash, d v1.Descriptor) error {
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	var there []v1.Descriptor
	err := p.patience("").retry(ctx, func() (err error) {
		there, err = p.session.referrersByTag(ctx, h, "list the referrers of "+h.String())
		return err
	})
	if err != nil {
		return err
	}
	if slices.ContainsFunc(there, func(o v1.Descriptor) bool { return o.Digest == d.Digest }) {
		return nil
	}
	if len(there) >= maxReferrers {
		return errors.New("the image has a hundred referrers there already")
	}
	index.Manifests = append(there, d)
	raw, err := json.Marshal(index)
	if err != nil {
		return fmt.Errorf("write the list of referrers: %w", err)
	}
	_, err = p.manifest(ctx, target{text: referrersTag(h)}, types.OCIImageIndex, raw)
	return err
}
