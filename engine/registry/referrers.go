package registry

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	maxReferrers     = 100 // descriptors
	maxReferrerPages = 10
)

// Referrers lists what refers to a manifest (signatures, lists of contents): OCI distribution 1.1, by its API, or by
// the tag that stands in for it. Of more than a hundred, a hundred are listed. An endpoint that knows none is not the
// last to be asked, as mirrors often know nothing of referrers. None at all is no error.
func (r *Repository) Referrers(ctx context.Context, h v1.Hash) ([]v1.Descriptor, error) {
	var failures []error
	for i, s := range r.sessions {
		var all []v1.Descriptor
		err := r.patience("", s, i+1 == len(r.sessions)).retry(ctx, func() (err error) {
			all, err = s.referrers(ctx, h)
			return err
		})
		switch {
		case err == nil && (len(all) > 0 || i+1 == len(r.sessions)):
			return all, nil
		case ctx.Err() != nil:
			return nil, err
		case err != nil:
			failures = append(failures, err)
		}
	}
	return nil, together(failures)
}

// referrers asks one endpoint.
func (s *session) referrers(ctx context.Context, h v1.Hash) ([]v1.Descriptor, error) {
	op := "list the referrers of " + s.ep.Repository + "@" + h.String()
	index := string(types.OCIImageIndex)
	req := request{op: op, method: http.MethodGet, path: "referrers/" + h.String(), limit: maxManifest,
		header: http.Header{"Accept": {index}}}
	var all []v1.Descriptor
	for range maxReferrerPages {
		resp, err := s.do(ctx, req)
		if page := len(all) == 0 && req.url == ""; page && noReferrers(err) ||
			err == nil && page && mediaType(resp.Header.Get("Content-Type")) != index {
			if err == nil {
				resp.Body.Close()
			}
			return s.referrersByTag(ctx, h, op)
		}
		if err != nil {
			return nil, err
		}
		page, err := readReferrers(resp)
		if err != nil {
			return nil, s.explain(ctx, op, &call{}, err)
		}
		all = append(all, page...)
		next := nextPage(resp)
		if len(all) >= maxReferrers || next == "" {
			break
		}
		req.url = next
	}
	return all[:min(len(all), maxReferrers)], nil
}

// noReferrers reports whether an error says that a registry has no API of referrers: in practice by any refusal but
// that somebody is not to be let in.
func noReferrers(err error) bool {
	var e *Error
	return errors.As(err, &e) && (e.Kind == KindNotFound || e.Kind == KindRefused)
}

// referrersByTag reads the index under the tag that stands in for the API: sha256-<hex>.
func (s *session) referrersByTag(ctx context.Context, h v1.Hash, op string) ([]v1.Descriptor, error) {
	d, raw, err := s.manifest(ctx, target{text: referrersTag(h)})
	var e *Error
	if errors.As(err, &e) && e.Kind == KindNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !d.MediaType.IsIndex() {
		return nil, s.explain(ctx, op, &call{}, contentError("what has the tag %s is no index", referrersTag(h)))
	}
	all, err := parseReferrers(raw)
	if err != nil {
		return nil, s.explain(ctx, op, &call{}, err)
	}
	return all[:min(len(all), maxReferrers)], nil
}

// referrersTag is the tag of the referrers of a manifest: OCI distribution specification, referrers tag schema.
func referrersTag(h v1.Hash) string { return h.Algorithm + "-" + h.Hex }

// readReferrers reads one page.
func readReferrers(resp *http.Response) ([]v1.Descriptor, error) {
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	return parseReferrers(raw)
}

func parseReferrers(raw []byte) ([]v1.Descriptor, error) {
	var index v1.IndexManifest
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, contentError("the list of referrers is not right: %s", said(err.Error()))
	}
	var all []v1.Descriptor
	for _, d := range index.Manifests {
		if d.Digest.Hex == "" || d.Size < 0 || d.Size > maxManifest {
			return nil, contentError("the list of referrers has something without a digest, or of %d bytes", d.Size)
		}
		all = append(all, d)
	}
	return all, nil
}

// nextPage is the URL of Link: <…>; rel="next" (RFC 8288), where it is on the same server.
func nextPage(resp *http.Response) string {
	for _, link := range resp.Header.Values("Link") {
		address, rest, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(link), "<"), ">")
		if !ok || !strings.Contains(rest, "next") {
			continue
		}
		u, err := url.Parse(address)
		if err != nil {
			return ""
		}
		if next := resp.Request.URL.ResolveReference(u); next.Host == resp.Request.URL.Host {
			return next.String()
		}
	}
	return ""
}
