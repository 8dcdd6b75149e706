package image

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/cnm"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Formats of archives, see [SaveOptions].
const (
	formatOCI    = "oci-archive"
	formatDocker = "docker-archive"
)

// Save writes one tar of images, each blob once: the same bytes for the same images and names. An image has the names
// that it is asked for by, and none when that is its ID. Blobs are compared with their digests while they are written,
// and the index comes last: after an error ([CorruptError] where a blob is not what it should be) no reader takes what
// was written for an archive. What is removed meanwhile is in the archive all the same.
//
// The formats are those of the OCI image specification ("Image Layout"), and of 'docker save'.
func (s *Store) Save(ctx context.Context, w io.Writer, refs []string, o SaveOptions) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("save images: %w", err)
		}
	}()
	if len(refs) == 0 {
		return &cnm.Error{Kind: cnm.ErrInvalid, Field: "images", Reason: "names none",
			Remedy: "name at least one image"}
	}
	l, err := s.lease(ctx, refs...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.release(ctx)) }()
	v := &saving{ctx: ctx, c: s.content, tar: tar.NewWriter(w), parts: map[string]part{}}
	switch o.Format {
	case "":
		err = v.layout(l, true)
	case formatOCI:
		err = v.layout(l, false)
	case formatDocker:
		err = v.docker(l)
	default:
		return &cnm.Error{Kind: cnm.ErrInvalid, Field: "format", Value: o.Format, Reason: "is no format of archives",
			Remedy: "use " + formatOCI + " or " + formatDocker + ", or none for an archive that is both"}
	}
	if err != nil {
		return err
	}
	return v.write()
}

// saving is an archive on its way out.
type saving struct {
	ctx   context.Context
	c     *content
	tar   *tar.Writer
	parts map[string]part // by their names in the archive
	last  []string        // documents that tell what the archive is, in the order in which they are written
}

// part is a file of the archive: a document, or a blob.
type part struct {
	raw   []byte
	blob  v1.Hash // the zero one: raw
	plain v1.Hash // diff ID; the blob is written decompressed. The zero one: as it is
	size  int64   // bytes in the archive
	image string  // what it is of, for errors
}

// layout makes an OCI image layout, with the manifest of 'docker save' too.
func (v *saving) layout(l *lease, docker bool) error {
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}
	var list tarball.Manifest
	referrers := map[v1.Hash]bool{}
	for _, img := range l.images {
		m, err := v.manifest(img)
		if err != nil {
			return fmt.Errorf("image %s: %w", img.ref, err)
		}
		index.Manifests = append(index.Manifests, describe(img)...)
		for _, r := range img.manifest.Referrers {
			if !referrers[r.Digest] {
				index.Manifests = append(index.Manifests, r)
				referrers[r.Digest] = true
			}
		}
		if err := v.blobs(img, m); err != nil {
			return fmt.Errorf("image %s: %w", img.ref, err)
		}
		d := tarball.Descriptor{Config: blobPath(m.Config.Digest), RepoTags: img.names}
		for _, layer := range m.Layers {
			d.Layers = append(d.Layers, blobPath(layer.Digest))
		}
		list = append(list, d)
	}
	if err := v.document("index.json", index); err != nil {
		return err
	}
	if docker {
		if err := v.document("manifest.json", list); err != nil {
			return err
		}
	}
	return v.document(ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
}

// describe returns what an index says of an image: once for each of its names.
func describe(img leased) []v1.Descriptor {
	d := img.manifest.Descriptor
	d.Platform = &v1.Platform{OS: cmp.Or(img.image.OS, "linux"), Architecture: img.image.Architecture,
		Variant: img.image.Variant}
	if img.image.Architecture == "" {
		d.Platform = nil
	}
	if len(img.names) == 0 {
		return []v1.Descriptor{d}
	}
	var out []v1.Descriptor
	for _, short := range img.names {
		d.Annotations = map[string]string{nameAnnotation: FullName(short),
			ocispec.AnnotationRefName: short[strings.LastIndexByte(short, ':')+1:]}
		out = append(out, d)
	}
	return out
}

// manifest reads an image's manifest.
func (v *saving) manifest(img leased) (*v1.Manifest, error) {
	raw, err := v.c.readBlob(img.manifest.Digest)
	if err != nil {
		return nil, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", img.manifest.Digest, err)
	}
	return m, nil
}

// blobs adds all blobs of an image by their digests: those of its index and of what refers to it too.
func (v *saving) blobs(img leased, m *v1.Manifest) error {
	want := map[string]int64{m.Config.Digest.Hex: m.Config.Size, img.manifest.Digest.Hex: img.manifest.Size}
	for _, l := range m.Layers {
		want[l.Digest.Hex] = l.Size
	}
	for _, b := range img.manifest.Blobs {
		h := v1.Hash{Algorithm: "sha256", Hex: b}
		size, err := v.c.blobSize(h)
		if err != nil {
			return err
		}
		if w, ok := want[b]; ok && w != size {
			return &CorruptError{Digest: h.String(), Reason: fmt.Sprintf("has %d bytes, and should have %d", size, w)}
		}
		v.parts[blobPath(h)] = part{blob: h, size: size, image: img.ref}
	}
	return nil
}

// blobSize is how many bytes a blob has.
func (c *content) blobSize(h v1.Hash) (int64, error) {
	f, size, err := c.openBlob(h)
	if err != nil {
		return 0, err
	}
	return size, f.Close()
}

// docker makes what 'docker save' wrote until version 25: layers are not compressed, and named by their diff IDs.
func (v *saving) docker(l *lease) error {
	var list tarball.Manifest
	for _, img := range l.images {
		d := tarball.Descriptor{Config: strings.TrimPrefix(img.id, "sha256:") + ".json", RepoTags: img.names}
		v.parts[d.Config] = part{raw: img.record.Config, size: int64(len(img.record.Config)), image: img.ref}
		m, err := v.manifest(img)
		if err == nil && len(m.Layers) != len(img.image.Layers) {
			err = &CorruptError{Digest: img.manifest.Digest.String(), Reason: fmt.Sprintf("has %d layers, and the "+
				"configuration has %d", len(m.Layers), len(img.image.Layers))}
		}
		if err != nil {
			return fmt.Errorf("image %s: %w", img.ref, err)
		}
		for n, layer := range m.Layers {
			p := part{blob: layer.Digest, image: img.ref}
			p.plain = v1.Hash{Algorithm: "sha256", Hex: strings.TrimPrefix(img.image.Layers[n], "sha256:")}
			name := p.plain.Hex + ".tar"
			d.Layers = append(d.Layers, name)
			if _, ok := v.parts[name]; ok {
				continue
			}
			if p.size, err = v.plainSize(p, img.image.layerKeys[n]); err != nil {
				return fmt.Errorf("image %s: %w", img.ref, err)
			}
			v.parts[name] = p
		}
		list = append(list, d)
	}
	return v.document("manifest.json", list)
}

// plainSize is how many bytes a layer has that is not compressed: it stands in front of it. It was written down when
// the layer was unpacked; where that is lost, the blob is read for it.
func (v *saving) plainSize(p part, key string) (int64, error) {
	if info, err := v.c.info(key); err == nil && info.DiffID == p.plain.String() && info.TarSize > 0 {
		_, err := v.c.blobSize(p.blob)
		return info.TarSize, err
	}
	return v.decompressed(io.Discard, p)
}

func (v *saving) document(name string, doc any) error {
	raw, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	v.parts[name] = part{raw: raw, size: int64(len(raw))}
	v.last = append(v.last, name)
	return nil
}

// write writes all parts in the order of their names, and what tells of them last.
func (v *saving) write() error {
	var names []string
	for name := range v.parts {
		if !slices.Contains(v.last, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "blobs/") }) {
		for _, dir := range []string{"blobs/", "blobs/sha256/"} {
			if err := v.tar.WriteHeader(&tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
				return fmt.Errorf("write archive: %w", err)
			}
		}
	}
	for _, name := range append(names, v.last...) {
		p := v.parts[name]
		err := v.tar.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: p.size})
		if err != nil {
			return fmt.Errorf("write archive: %w", err)
		}
		if err := v.put(p); err != nil {
			if p.image != "" {
				err = fmt.Errorf("image %s: %w", p.image, err)
			}
			return err
		}
	}
	if err := v.tar.Close(); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	return nil
}

func (v *saving) put(p part) error {
	switch {
	case p.blob.Hex == "":
		_, err := v.tar.Write(p.raw)
		return err
	case p.plain.Hex != "":
		_, err := v.decompressed(v.tar, p)
		return err
	}
	b, err := v.c.openVerified(p.blob)
	if err != nil {
		return err
	}
	defer b.Close()
	n, err := v.copy(v.tar, io.LimitReader(b, p.size))
	if err == nil && n == p.size {
		_, err = v.copy(io.Discard, b) // its end tells whether it is what it should be
	} else if err == nil {
		err = &CorruptError{Digest: p.blob.String(), Reason: "has become shorter while it was read"}
	}
	return err
}

// decompressed writes a layer as it was before compression, and compares both digests. It returns its size.
func (v *saving) decompressed(w io.Writer, p part) (n int64, err error) {
	b, err := v.c.openVerified(p.blob)
	if err != nil {
		return 0, err
	}
	defer b.Close()
	n, err = v.plain(w, b, p)
	if _, failed := errors.AsType[*writeError](err); failed || v.ctx.Err() != nil {
		return n, err
	}
	// A blob that is not what its digest says explains why it does not decompress.
	if _, berr := v.copy(io.Discard, b); berr != nil {
		return n, berr
	}
	return n, err
}

func (v *saving) plain(w io.Writer, blob io.Reader, p part) (n int64, err error) {
	all := newDecoders(newWideWindows()) // nobody waits for whoever takes the archive
	in, err := decompress(v.ctx, blob, &all)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	sum := sha256.New()
	limit := p.size
	if limit == 0 {
		limit = math.MaxInt64
	}
	if n, err = v.copy(io.MultiWriter(w, sum), io.LimitReader(in, limit)); err != nil {
		return n, err
	}
	more, err := v.copy(io.Discard, in)
	if err == nil && (more > 0 || hex.EncodeToString(sum.Sum(nil)) != p.plain.Hex) {
		err = &CorruptError{Digest: p.blob.String(), Reason: "does not decompress to the layer " + p.plain.String()}
	}
	return n, err
}

// copy ends with the context.
func (v *saving) copy(w io.Writer, r io.Reader) (int64, error) {
	return io.CopyBuffer(archiveWriter{w}, ending{v.ctx, r}, make([]byte, copyBuffer))
}

// archiveWriter tells errors of whoever takes the archive from those of blobs.
type archiveWriter struct{ w io.Writer }

// Write implements [io.Writer].
func (a archiveWriter) Write(p []byte) (int, error) {
	n, err := a.w.Write(p)
	if err != nil {
		err = &writeError{err}
	}
	return n, err
}

type writeError struct{ cause error }

func (e *writeError) Error() string { return "write archive: " + e.cause.Error() }
func (e *writeError) Unwrap() error { return e.cause }

// ending is a reader that ends with a context.
type ending struct {
	ctx context.Context
	r   io.Reader
}

// Read implements [io.Reader].
func (e ending) Read(p []byte) (int, error) {
	if e.ctx.Err() != nil {
		return 0, context.Cause(e.ctx)
	}
	return e.r.Read(p)
}
