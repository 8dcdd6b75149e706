package image

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vethloom/vethloom/cnm"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Store is a node's images. Its methods can be called at the same time.
type Store struct {
	records cnm.Store
	log     *slog.Logger
	content *content

	mu    sync.Mutex // held while records change
	cache sync.Map   // ID → *entry: a configuration is decoded once, not once a look-up
}

// record is an image as it is in the store.
type record struct {
	References []string  `json:"references,omitempty"` // short form, sorted
	Config     []byte    `json:"config"`               // byte for byte: the ID is its digest
	Size       int64     `json:"size"`
	Added      time.Time `json:"added"`

	Digests   []string   `json:"digests,omitempty"`   // repository@sha256:…, sorted
	Manifests []manifest `json:"manifests,omitempty"` // newest first; none for an image of an earlier version
	LayerKeys []string   `json:"layerKeys,omitempty"` // none: the diff IDs
	ByDigest  bool       `json:"byDigest,omitempty"`  // asked for by digest: it stays without a tag
}

// manifest is one by which an image came in: the same image may be compressed in several ways.
type manifest struct {
	v1.Descriptor
	Blobs []string `json:"blobs"` // hexadecimal digits of all blobs that it needs, its own and its index's among them
	// Referrers are what refers to it: signatures, lists of contents. Their blobs are in Blobs.
	Referrers []v1.Descriptor `json:"referrers,omitempty"`
}

// entry is a decoded record. It is never changed.
type entry struct {
	id       string
	revision uint64
	record   record
	image    Image
}

// Open opens the images under a directory, and clears away what a killed
// import left in its temporary directory.
func Open(ctx context.Context, c Config) (*Store, error) {
	l, err := openContent(c.Root, c.Log, c.Step)
	if err != nil {
		return nil, fmt.Errorf("open images: %w", err)
	}
	s := &Store{records: c.Store, log: c.Log, content: l}
	if _, err := s.entries(ctx); err != nil {
		return nil, fmt.Errorf("open images: %w", err)
	}
	return s, nil
}

// LayerDirs returns the directories of an image's layers, bottom first, to be
// used as overlayfs lowerdirs. They must never be written to. A layer that an
// image has twice is returned once, where it is highest: overlayfs refuses the same
// directory twice, and the upper one covers all that the lower one shows.
func (s *Store) LayerDirs(img Image) []string {
	var dirs []string
	for i, key := range img.layerKeys {
		if !slices.Contains(img.layerKeys[i+1:], key) {
			dirs = append(dirs, s.content.fs(key))
		}
	}
	return dirs
}

// entries returns every image by ID.
func (s *Store) entries(ctx context.Context) (map[string]*entry, error) {
	recs, err := s.records.List(ctx, cnm.KindImage)
	if err != nil {
		return nil, fmt.Errorf("list image records: %w", err)
	}
	all := make(map[string]*entry, len(recs))
	for _, r := range recs {
		e, err := s.decode(r)
		if err != nil {
			return nil, err
		}
		all[e.id] = e
	}
	return all, nil
}

func (s *Store) decode(r cnm.Record) (*entry, error) {
	if c, ok := s.cache.Load(r.Key.ID); ok && c.(*entry).revision == r.Revision {
		return c.(*entry), nil
	}
	e := &entry{id: r.Key.ID, revision: r.Revision}
	if err := json.Unmarshal(r.Value, &e.record); err != nil {
		return nil, fmt.Errorf("read record of image %s: %w", r.Key.ID, err)
	}
	if err := e.decodeConfig(); err != nil {
		return nil, fmt.Errorf("read record of image %s: %w", r.Key.ID, err)
	}
	s.cache.Store(e.id, e)
	return e, nil
}

func (e *entry) decodeConfig() error {
	var c ocispec.Image
	if err := json.Unmarshal(e.record.Config, &c); err != nil {
		return fmt.Errorf("parse configuration: %w", err)
	}
	var docker struct {
		Config struct{ Healthcheck json.RawMessage }
	}
	if err := json.Unmarshal(e.record.Config, &docker); err != nil {
		return fmt.Errorf("parse configuration: %w", err)
	}
	e.image = Image{
		ID: e.id, References: e.record.References, Size: e.record.Size,
		OS: c.OS, Architecture: c.Architecture, Variant: c.Variant, Author: c.Author, Config: c.Config,
		Raw: e.record.Config, Digests: e.record.Digests, Added: e.record.Added, layerKeys: e.record.LayerKeys,
	}
	if len(e.record.Manifests) > 0 {
		e.image.Manifest = e.record.Manifests[0].Descriptor
	}
	if h := docker.Config.Healthcheck; string(h) != "null" {
		e.image.Healthcheck = h
	}
	if n := len(e.record.LayerKeys); n > 0 && n != len(c.RootFS.DiffIDs) {
		return fmt.Errorf("%d layers are kept, and the configuration has %d", n, len(c.RootFS.DiffIDs))
	}
	if c.Created != nil {
		e.image.Created = *c.Created
	}
	for _, d := range c.RootFS.DiffIDs {
		h, err := v1.NewHash(d.String())
		if err != nil {
			return fmt.Errorf("parse configuration: %w", err)
		}
		e.image.Layers = append(e.image.Layers, h.String())
		if len(e.record.LayerKeys) == 0 {
			e.image.layerKeys = append(e.image.layerKeys, h.Hex)
		}
	}
	return nil
}

// public returns an image that the caller may change without harm.
func (e *entry) public() Image {
	img := e.image
	img.References = slices.Clone(img.References)
	img.Digests = slices.Clone(img.Digests)
	img.Layers = slices.Clone(img.Layers)
	img.Config.Env = slices.Clone(img.Config.Env)
	img.Config.Cmd = slices.Clone(img.Config.Cmd)
	img.Config.Entrypoint = slices.Clone(img.Config.Entrypoint)
	img.Config.Labels = maps.Clone(img.Config.Labels)
	img.Config.ExposedPorts = maps.Clone(img.Config.ExposedPorts)
	img.Config.Volumes = maps.Clone(img.Config.Volumes)
	return img
}

// Resolve finds an image by name[:tag], ID, or a prefix of an ID of four
// digits or more that fits no other; a [NotFoundError] otherwise.
func (s *Store) Resolve(ctx context.Context, ref string) (Image, error) {
	all, err := s.entries(ctx)
	if err != nil {
		return Image{}, err
	}
	e, _, err := find(all, ref)
	if err != nil {
		return Image{}, err
	}
	return e.public(), nil
}

// Confirm returns a [NotFoundError] when there is no image of an ID. A removal that is under way ends first: whom
// Remove and Prune are told of as a user of the image by now keeps it when there is no error.
func (s *Store) Confirm(ctx context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	all, err := s.entries(ctx)
	if err == nil && all[id] == nil {
		err = &NotFoundError{Ref: id}
	}
	return err
}

// minPrefix is how many digits of an ID are needed: with fewer, removing an
// image by a short name that is gone (a, db) would take another one.
const minPrefix = 4

// find returns the image, and the reference it was found by ("" for an ID).
func find(all map[string]*entry, ref string) (*entry, string, error) {
	if e := all[ref]; e != nil {
		return e, "", nil
	}
	if strings.Contains(ref, "@") {
		return findDigest(all, ref)
	}
	short, refErr := ParseReference(ref)
	if refErr == nil {
		for _, e := range all {
			if slices.Contains(e.record.References, short) {
				return e, short, nil
			}
		}
	}
	digits, explicit := strings.CutPrefix(ref, "sha256:")
	if !isHex(digits) || !explicit && len(digits) < minPrefix {
		if refErr != nil {
			return nil, "", refErr
		}
		return nil, "", &NotFoundError{Ref: short}
	}
	var fits []string
	for id, e := range all {
		if strings.HasPrefix(id, "sha256:"+digits) || len(digits) == 64 && e.hasManifest(digits) {
			fits = append(fits, id)
		}
	}
	switch len(fits) {
	case 0:
		return nil, "", &NotFoundError{Ref: ref}
	case 1:
		return all[fits[0]], "", nil
	}
	slices.Sort(fits)
	return nil, "", &AmbiguousError{Prefix: ref, IDs: fits}
}

func (e *entry) hasManifest(digits string) bool {
	return slices.ContainsFunc(e.record.Manifests, func(m manifest) bool { return m.Digest.Hex == digits })
}

// findDigest finds an image by name@digest. Of those for several platforms that an index has, this host's comes first.
func findDigest(all map[string]*entry, ref string) (*entry, string, error) {
	named, err := ParseNamed(ref)
	if err != nil {
		return nil, "", err
	}
	var found *entry
	for _, e := range all {
		if !slices.Contains(e.record.Digests, named.String()) {
			continue
		}
		if found == nil || rank(e) < rank(found) {
			found = e
		}
	}
	if found == nil {
		return nil, "", &NotFoundError{Ref: named.String()}
	}
	return found, "", nil
}

// rank orders images that one digest stands for.
func rank(e *entry) string {
	if e.image.Architecture == hostPlatform().Architecture {
		return "0" + e.id
	}
	return "1" + e.id
}

// List returns every image, newest first.
func (s *Store) List(ctx context.Context) ([]Image, error) {
	all, err := s.entries(ctx)
	if err != nil {
		return nil, err
	}
	var list []Image
	for _, e := range all {
		list = append(list, e.public())
	}
	slices.SortFunc(list, func(a, b Image) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
	})
	return list, nil
}

// Tag gives the image src the reference dst as well, taking it away from
// whichever image had it.
func (s *Store) Tag(ctx context.Context, src, dst string) error {
	short, err := ParseReference(dst)
	if err != nil {
		return err
	}
	return s.update(ctx, func(all map[string]*entry) (map[string]*record, error) {
		e, _, err := find(all, src)
		if err != nil {
			return nil, err
		}
		changed := map[string]*record{}
		return changed, addReference(all, changed, e.id, short)
	})
}

// update commits what change returns of the records: a nil record deletes. It
// starts over when another writer was faster.
func (s *Store) update(ctx context.Context, change func(all map[string]*entry) (map[string]*record, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		all, err := s.entries(ctx)
		if err != nil {
			return err
		}
		changed, err := change(all)
		if err != nil || len(changed) == 0 {
			return err
		}
		err = s.commit(ctx, all, changed)
		if !errors.Is(err, cnm.ErrConflict) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

func (s *Store) commit(ctx context.Context, all map[string]*entry, changed map[string]*record) error {
	var writes []cnm.Write
	for id, r := range changed {
		w := cnm.Write{Key: cnm.Key{Kind: cnm.KindImage, ID: id}}
		if old := all[id]; old != nil {
			w.Revision = old.revision
		}
		if r != nil {
			b, err := json.Marshal(r)
			if err != nil {
				return fmt.Errorf("write record of image %s: %w", id, err)
			}
			w.Value = b
		}
		writes = append(writes, w)
	}
	if err := s.records.Commit(ctx, writes...); err != nil {
		return fmt.Errorf("write image records: %w", err)
	}
	for id, r := range changed {
		if r == nil {
			s.cache.Delete(id)
		}
	}
	return nil
}

// pending returns the record to change, a copy of the stored one at first.
func pending(all map[string]*entry, changed map[string]*record, id string) *record {
	if r := changed[id]; r != nil {
		return r
	}
	r := &record{}
	if e := all[id]; e != nil {
		*r = e.record
		r.References = slices.Clone(r.References)
	}
	changed[id] = r
	return r
}

// addReference moves a reference to an image.
func addReference(all map[string]*entry, changed map[string]*record, id, short string) error {
	for _, e := range all {
		if e.id != id && slices.Contains(e.record.References, short) {
			dropReference(pending(all, changed, e.id), short)
		}
	}
	r := pending(all, changed, id)
	dropReference(r, short)
	if len(r.References) >= maxReferences {
		return &cnm.Error{Kind: cnm.ErrExhausted, Field: "image reference", Value: short,
			Reason: fmt.Sprintf("the image has %d names, which is the limit", len(r.References)),
			Remedy: "take names away with 'net rmi NAME'"}
	}
	r.References = append(r.References, short)
	slices.Sort(r.References)
	return nil
}

func dropReference(r *record, short string) {
	r.References = slices.DeleteFunc(r.References, func(have string) bool { return have == short })
}
