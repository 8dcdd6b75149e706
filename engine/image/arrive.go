package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vethloom/vethloom/engine/image/unpack"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// arrival is an image on its way in, from an archive or from a registry.
type arrival struct {
	name     string   // what to call it in errors
	refs     []string // short form
	digests  []string // repository@sha256:…
	byDigest bool     // it was asked for by digest, and stays without a tag
	config   []byte
	parsed   *v1.ConfigFile
	manifest v1.Descriptor // the zero one: one is to be made
	// documents are the manifest and the indexes that led to it.
	documents [][]byte
	layers    []source // bottom first
	referrers []referrer
	resumed   bool // what was fetched stays when the rest cannot be had
}

// source is where a layer's blob comes from. Without a blob's digest, one is made of what is read.
type source struct {
	blob v1.Descriptor
	open opener
	give giver
}

// referrer is a manifest that refers to an image's, with its blobs.
type referrer struct {
	descriptor v1.Descriptor
	raw        []byte
	blobs      []source
}

// check reads the configuration. It is done for every image before the first is brought in.
func (a *arrival) check() error {
	config, err := v1.ParseConfigFile(bytes.NewReader(a.config))
	if err != nil {
		return &unpack.FormatError{Reason: fmt.Sprintf("has a configuration that cannot be parsed: %v", err)}
	}
	a.parsed = config
	if err := checkConfig(config, len(a.layers)); err != nil {
		return err
	}
	return checkAmounts(config, a.config)
}

// parallelLayers is how many layers of an image are brought in at once.
const parallelLayers = 3

// take brings in what is missing of an image, and adds it.
func (s *Store) take(ctx context.Context, a arrival, report func(Progress)) (img Image, err error) {
	in := s.content.intake()
	defer func() { err = s.settle(ctx, in, a, err) }()
	placed, err := in.takeLayers(ctx, a, report)
	if err != nil {
		return Image{}, err
	}
	return s.finish(ctx, in, a, placed)
}

// finish has an image appear whose layers were taken in.
func (s *Store) finish(ctx context.Context, in *intake, a arrival, placed []*placed) (Image, error) {
	m, err := in.takeDocuments(ctx, &a, placed)
	if err != nil {
		return Image{}, err
	}
	if err := in.publish(); err != nil {
		return Image{}, err
	}
	return s.add(ctx, a, m, placed)
}

// settle lets go of what an intake has. What appeared of an image that was not added goes, and so does what was fetched
// unless it helps the next try.
func (s *Store) settle(ctx context.Context, in *intake, a arrival, err error) error {
	in.close()
	if err == nil {
		return nil
	}
	if !a.resumed {
		err = errors.Join(err, s.content.forget(a.layers))
	}
	_, serr := s.sweep(ctx, false)
	return errors.Join(err, serr)
}

func (i *intake) takeLayers(ctx context.Context, a arrival, report func(Progress)) ([]*placed, error) {
	diffIDs := a.parsed.RootFS.DiffIDs
	chains := chainIDs(diffIDs)
	out := make([]*placed, len(diffIDs))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelLayers)
	for n, l := range a.layers {
		g.Go(func() (err error) {
			w := wanted{diffID: diffIDs[n], chain: chains[n], blob: l.blob, open: l.open, give: l.give}
			if w.blob.Digest.Hex == "" {
				out[n], err = i.makeLayer(gctx, w)
			} else {
				out[n], err = i.layer(gctx, w, report)
			}
			if err != nil {
				return fmt.Errorf("layer %d of %d: %w", n+1, len(a.layers), err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	return out, i.complete(ctx, out, chains)
}

// takeDocuments takes in the configuration, the manifest, which is made if there is none, and what refers to it.
func (i *intake) takeDocuments(ctx context.Context, a *arrival, layers []*placed) (manifest, error) {
	if len(a.documents) == 0 {
		raw, err := makeManifest(a.config, layers)
		if err != nil {
			return manifest{}, err
		}
		a.manifest = v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: digestOf(raw), Size: int64(len(raw))}
		a.documents = [][]byte{raw}
	}
	m := manifest{Descriptor: v1.Descriptor{MediaType: a.manifest.MediaType, Digest: a.manifest.Digest,
		Size: a.manifest.Size}}
	for _, raw := range append([][]byte{a.config}, a.documents...) {
		h, err := i.document(raw)
		if err != nil {
			return m, err
		}
		m.Blobs = append(m.Blobs, h.Hex)
	}
	for _, l := range layers {
		m.Blobs = append(m.Blobs, l.blob.Digest.Hex)
	}
	for _, r := range a.referrers {
		h, err := i.document(r.raw)
		if err != nil {
			return m, err
		}
		m.Blobs = append(m.Blobs, h.Hex)
		for _, b := range r.blobs {
			if err := i.blob(ctx, b.blob, b.open); err != nil {
				return m, fmt.Errorf("blob of what refers to it, %s: %w", r.descriptor.Digest, err)
			}
			m.Blobs = append(m.Blobs, b.blob.Digest.Hex)
		}
		m.Referrers = append(m.Referrers, r.descriptor)
	}
	slices.Sort(m.Blobs)
	m.Blobs = slices.Compact(m.Blobs)
	return m, nil
}

// makeManifest makes the manifest of an image that came without one.
func makeManifest(config []byte, layers []*placed) ([]byte, error) {
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Layers: []v1.Descriptor{},
		Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Digest: digestOf(config), Size: int64(len(config))}}
	for _, l := range layers {
		m.Layers = append(m.Layers, l.blob)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("write manifest: %w", err)
	}
	return raw, nil
}

// makeLayer makes a layer be there whose blob is not known. One that is there, with a blob, is not read again.
func (i *intake) makeLayer(ctx context.Context, w wanted) (*placed, error) {
	p := i.hold(pinLayer, w.diffID.Hex)
	i.hold(pinLayer, w.chain.Hex)
	if have := i.made(p, w); have != nil {
		return i.place(have), nil
	}
	r, err := w.open(ctx, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	u, d, err := i.compress(ctx, r, unpack.Options{Layer: true})
	if err != nil {
		return nil, err
	}
	if u.diffID != w.diffID {
		return nil, errors.Join(wrongDiffID(w.diffID, u.diffID), u.discard())
	}
	return i.adopt(ctx, u, w.chain, d)
}

// made returns a layer that is there with the blob that it was made of; nil for none.
func (i *intake) made(p *pin, w wanted) *placed {
	have := i.find(p, w)
	if have == nil || have.staged != nil || have.info.Blob.Digest.Hex == "" {
		return nil
	}
	i.hold(pinBlob, have.info.Blob.Digest.Hex)
	if !i.c.hasBlob(have.info.Blob.Digest, have.info.Blob.Size) {
		return nil
	}
	have.blob = have.info.Blob
	return have
}

// add commits an image whose layers and blobs are there and held. One that is stored already gets the references and
// the manifest besides.
func (s *Store) add(ctx context.Context, a arrival, m manifest, layers []*placed) (Image, error) {
	e := &entry{id: digestOf(a.config).String(), record: record{Config: a.config, Added: time.Now().UTC()}}
	for n, l := range layers {
		e.record.LayerKeys = append(e.record.LayerKeys, l.key)
		if !slices.Contains(e.record.LayerKeys[:n], l.key) {
			e.record.Size += l.info.Size
		}
	}
	if err := e.decodeConfig(); err != nil {
		return Image{}, err
	}
	err := s.update(ctx, func(all map[string]*entry) (map[string]*record, error) {
		changed := map[string]*record{}
		r := pending(all, changed, e.id)
		if known := all[e.id]; known == nil {
			*r = e.record
		} else {
			r.LayerKeys = s.content.stay(known.image.layerKeys, e.record.LayerKeys)
		}
		r.ByDigest = r.ByDigest || a.byDigest
		r.Digests = append(slices.Clone(r.Digests), a.digests...)
		slices.Sort(r.Digests)
		r.Digests = slices.Compact(r.Digests)
		if len(r.Digests) > maxReferences {
			return nil, tooMany("digests in repositories", len(r.Digests), maxReferences)
		}
		r.Manifests = slices.DeleteFunc(slices.Clone(r.Manifests), func(have manifest) bool {
			return have.Digest == m.Digest
		})
		r.Manifests = append([]manifest{m}, r.Manifests[:min(len(r.Manifests), maxManifests-1)]...)
		for _, short := range a.refs {
			if err := addReference(all, changed, e.id, short); err != nil {
				return nil, err
			}
		}
		return changed, nil
	})
	if err != nil {
		return Image{}, diskError(s.content.root, err)
	}
	return s.Resolve(ctx, e.id)
}

// stay returns what the layers of a known image are kept under when it has come in again. Those that are there stay, as
// containers may run on them, and what no record names is collected.
func (c *content) stay(known, fresh []string) []string {
	out := slices.Clone(fresh)
	for n, key := range known {
		if st, err := os.Lstat(c.fs(key)); err == nil && st.IsDir() {
			out[n] = key
		}
	}
	return out
}

// maxManifests is how many manifests of one image are kept.
const maxManifests = 8
