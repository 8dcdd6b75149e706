package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image/unpack"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Pulled is an image after its pull.
type Pulled struct {
	Image
	Digest string // of what the registry has by that name: a manifest or an index
	Fresh  bool   // the image, or its name, was not here before
}

// Pull brings in an image from a registry, and has its name stand for it. What an earlier pull has fetched is not
// fetched again, nor what another one is fetching.
func (s *Store) Pull(ctx context.Context, ref string, src Source, o PullOptions) (Pulled, error) {
	named, err := ParseNamed(ref)
	if err != nil {
		return Pulled{}, err
	}
	want, err := parsePlatform(o.Platform)
	if err != nil {
		return Pulled{}, err
	}
	p, err := s.pull(ctx, named, src, want, o)
	if err != nil {
		return Pulled{}, fmt.Errorf("pull %s: %w", named, err)
	}
	return p, nil
}

func (s *Store) pull(ctx context.Context, named Named, src Source, want v1.Platform,
	o PullOptions) (Pulled, error) {
	d, raw, err := src.Manifest(ctx, named.Ref())
	if err != nil {
		return Pulled{}, err
	}
	top := digestOf(raw)
	if named.Digest != "" && named.Digest != top.String() {
		return Pulled{}, &mismatchError{want: v1.Hash{Algorithm: "sha256", Hex: named.Digest[len("sha256:"):]},
			got: top.Hex}
	}
	a := arrival{name: named.String(), byDigest: named.Digest != "", resumed: true,
		digests: []string{named.Repository + "@" + top.String()}}
	if short := named.Short(); short != "" {
		a.refs = []string{short}
	}
	if err := a.resolve(ctx, src, d, raw, want); err != nil {
		return Pulled{}, err
	}
	if err := a.check(); err != nil {
		return Pulled{}, err
	}
	if err := a.isFor(want, o.Platform != ""); err != nil {
		return Pulled{}, err
	}
	before, err := s.Resolve(ctx, digestOf(a.config).String())
	known := err == nil
	report := throttle(o.Report)
	for _, l := range a.layers {
		report(Progress{Part: l.blob.Digest.String(), Action: ActionWaiting, Total: l.blob.Size})
	}
	if err := s.content.fits(a.layers); err != nil {
		return Pulled{}, err
	}
	if err := a.readReferrers(ctx, src); err != nil {
		report(Progress{Action: ActionWaiting, Text: "what refers to the image is not brought in: " + err.Error()})
	}
	img, err := s.take(ctx, a, report)
	if err != nil {
		return Pulled{}, err
	}
	return Pulled{Image: img, Digest: top.String(), Fresh: !known || !sameNames(before, img)}, nil
}

func sameNames(a, b Image) bool {
	return fmt.Sprint(a.References, a.Digests) == fmt.Sprint(b.References, b.Digests)
}

// isFor refuses an image for another platform than the one that is wanted.
func (a *arrival) isFor(want v1.Platform, asked bool) error {
	has := v1.Platform{OS: a.parsed.OS, Architecture: a.parsed.Architecture, Variant: a.parsed.Variant}
	if has.OS == "" {
		has.OS = "linux"
	}
	if has.Architecture == "" || has.Satisfies(want) || want.Variant != "" && has.Variant == "" &&
		has.Satisfies(v1.Platform{OS: want.OS, Architecture: want.Architecture}) {
		return nil
	}
	remedy := fmt.Sprintf("pull it with --platform %s to have it all the same", has)
	if asked {
		remedy = "choose the platform that it is for, or another image"
	}
	return &unpack.FormatError{Reason: fmt.Sprintf("is for %s, and not for %s", has, want), Remedy: remedy}
}

// Bounds of what refers to an image and is kept with it.
const (
	maxReferrers     = 100
	maxReferrerBytes = 16 << 20 // in all
)

// readReferrers reads what refers to the manifest, without its blobs. None of it is kept when there is an error: an
// image without its signatures is still the image.
func (a *arrival) readReferrers(ctx context.Context, src Source) error {
	list, err := src.Referrers(ctx, a.manifest.Digest)
	if err != nil || len(list) == 0 {
		if errors.Is(err, cnm.ErrNotFound) {
			err = nil
		}
		return err
	}
	if len(list) > maxReferrers {
		return tooMany("referrers", len(list), maxReferrers)
	}
	var all []referrer
	bytesLeft := int64(maxReferrerBytes)
	for _, d := range list {
		r, err := readReferrer(ctx, src, d, &bytesLeft)
		if err != nil {
			return err
		}
		all = append(all, r)
	}
	a.referrers = all
	return nil
}

func readReferrer(ctx context.Context, src Source, d v1.Descriptor, left *int64) (referrer, error) {
	if err := checkDescriptor(d, min(*left, maxDocument)); err != nil {
		return referrer{}, err
	}
	_, raw, err := src.Manifest(ctx, d.Digest.String())
	if err != nil {
		return referrer{}, err
	}
	if digestOf(raw) != d.Digest {
		return referrer{}, &mismatchError{want: d.Digest, got: digestOf(raw).Hex}
	}
	*left -= int64(len(raw))
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return referrer{}, &unpack.FormatError{Reason: fmt.Sprintf("has a referrer that cannot be parsed: %v", err)}
	}
	r := referrer{descriptor: d, raw: raw}
	r.descriptor.Data = nil
	for _, b := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if err := checkDescriptor(b, max(*left, 1)); err != nil {
			return referrer{}, err
		}
		*left -= b.Size
		r.blobs = append(r.blobs, source{blob: b, open: blobOf(src, b)})
	}
	return r, nil
}

// reportEvery is how often the progress of a part is told.
const reportEvery = 100 * time.Millisecond

// throttle has every change of what is done told, and of how far it is no more than ten a second and part. It can be
// called from several goroutines; report is called by one at a time.
func throttle(report func(Progress)) func(Progress) {
	if report == nil {
		return func(Progress) {}
	}
	type state struct {
		action string
		at     time.Time
	}
	var mu sync.Mutex
	last := map[string]state{}
	return func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		s := last[p.Part]
		if s.action == p.Action && p.Text == "" && now.Sub(s.at) < reportEvery {
			return
		}
		last[p.Part] = state{p.Action, now}
		report(p)
	}
}
