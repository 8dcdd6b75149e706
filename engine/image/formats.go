package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/engine/image/unpack"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// dockerImages reads the manifest of 'docker save'.
func dockerImages(a *archive) ([]arrival, error) {
	raw, err := a.document("manifest.json", maxDocument)
	if err != nil {
		return nil, err
	}
	var m tarball.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, &unpack.FormatError{Reason: fmt.Sprintf("has a manifest.json that cannot be parsed: %v", err)}
	}
	if len(m) == 0 {
		return nil, &unpack.FormatError{Reason: "holds no image: its manifest.json is empty"}
	}
	names := 0
	for _, d := range m {
		names += len(d.RepoTags)
	}
	err = checkBounds(bound{"images", len(m), maxImages}, bound{"names of images", names, maxReferences})
	if err != nil {
		return nil, err
	}
	var out []arrival
	for _, d := range m {
		c := arrival{name: d.Config}
		if c.config, err = a.dockerConfig(d.Config); err != nil {
			return nil, err
		}
		for _, tag := range d.RepoTags {
			short, err := ParseReference(tag)
			if err != nil {
				return nil, err
			}
			c.refs = append(c.refs, short)
			c.name = short
		}
		if len(d.Layers) > maxLayers {
			return nil, fmt.Errorf("image %s: %w", c.name, tooMany("layers", len(d.Layers), maxLayers))
		}
		for _, l := range d.Layers {
			c.layers = append(c.layers, source{open: a.opener(l)})
		}
		out = append(out, c)
	}
	return out, nil
}

// dockerConfig returns a configuration, which is named by its digest.
func (a *archive) dockerConfig(name string) ([]byte, error) {
	raw, err := a.config(name)
	if err != nil {
		return nil, err
	}
	want := strings.TrimPrefix(strings.TrimSuffix(path.Base(name), ".json"), "sha256:")
	if len(want) != 64 || !isHex(want) {
		return raw, nil
	}
	return raw, compareDigest(name, raw, v1.Hash{Algorithm: "sha256", Hex: want})
}

func (a *archive) opener(name string) opener {
	return func(_ context.Context, offset int64) (io.ReadCloser, error) {
		p, err := a.part(name)
		if err != nil {
			return nil, err
		}
		return a.open(p, offset)
	}
}

// nameAnnotation is where containerd and BuildKit put an image's whole name;
// the OCI's own annotation often holds the tag alone.
const nameAnnotation = "io.containerd.image.name"

// layoutImages reads an OCI image layout.
func layoutImages(ctx context.Context, a *archive) ([]arrival, error) {
	raw, err := a.document("index.json", maxDocument)
	if err != nil {
		return nil, err
	}
	index, err := parseIndex(raw)
	if err != nil {
		return nil, err
	}
	var out []arrival
	for _, d := range index.Manifests {
		if isAttestation(d) {
			continue
		}
		if refers, err := a.refers(d); refers || err != nil {
			if err != nil {
				return nil, err
			}
			continue
		}
		c, err := a.layoutImage(ctx, d)
		if a.configs += len(c.config); err == nil && a.configs > maxConfigs {
			err = tooMany("bytes of configurations in all", a.configs, maxConfigs)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, &unpack.FormatError{Reason: "holds no image: its index.json is empty"}
	}
	for n := range out {
		if err := out[n].readReferrers(ctx, a); err != nil {
			return nil, fmt.Errorf("image %s: what refers to it: %w", out[n].name, err)
		}
	}
	return out, nil
}

// refers notes a manifest that refers to another one, and is no image.
func (a *archive) refers(d v1.Descriptor) (bool, error) {
	if checkDescriptor(d, 0) != nil || d.MediaType != types.OCIManifestSchema1 {
		return false, nil
	}
	raw, err := a.verified(d.Digest)
	if err != nil {
		return false, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return false, &unpack.FormatError{Reason: fmt.Sprintf("has a manifest that cannot be parsed: %v", err)}
	}
	if m.Subject == nil || m.Config.MediaType == types.OCIConfigJSON || m.Config.MediaType == types.DockerConfigJSON {
		return false, nil
	}
	a.subjects[m.Subject.Digest] = append(a.subjects[m.Subject.Digest], d)
	return true, nil
}

// bothImages reads an archive that is an OCI layout and what 'docker save' writes at once. The layout is taken, as it
// has the digests by which registries know the images; the other one may have more of their names.
func bothImages(ctx context.Context, a *archive) ([]arrival, error) {
	out, err := layoutImages(ctx, a)
	if err != nil {
		return nil, err
	}
	more, err := dockerImages(a)
	if err != nil {
		return nil, err
	}
	for _, d := range more {
		n := slices.IndexFunc(out, func(have arrival) bool { return bytes.Equal(have.config, d.config) })
		if n < 0 {
			out = append(out, d)
			continue
		}
		for _, short := range d.refs {
			if !slices.ContainsFunc(out, func(have arrival) bool { return slices.Contains(have.refs, short) }) {
				out[n].refs = append(out[n].refs, short)
				out[n].name = short
			}
		}
	}
	return out, nil
}

func (a *archive) layoutImage(ctx context.Context, d v1.Descriptor) (arrival, error) {
	c := arrival{name: d.Digest.String()}
	ref := d.Annotations[nameAnnotation]
	if ref == "" {
		ref = d.Annotations[ocispec.AnnotationRefName]
		if !strings.ContainsAny(ref, "/:") && ref != "" && looksLikeTag(ref) {
			ref = "" // a tag of a repository that is not named
		}
	}
	if ref != "" {
		short, err := ParseReference(ref)
		if err != nil {
			return c, err
		}
		c.refs, c.name = []string{short}, short
	}
	raw, err := a.verified(d.Digest)
	if err == nil {
		err = c.resolve(ctx, a, d, raw, hostPlatform())
	}
	for n := range c.layers {
		c.layers[n].give = a.give
	}
	if err != nil {
		return c, fmt.Errorf("image %s: %w", c.name, err)
	}
	return c, nil
}

// looksLikeTag tells a tag from a repository's name where either may be: a
// name starts with a letter, and latest is what people leave out.
func looksLikeTag(s string) bool {
	return s == "latest" || s[0] >= '0' && s[0] <= '9' || len(s) > 1 && s[0] == 'v' && s[1] >= '0' && s[1] <= '9'
}

// Manifest implements [Source].
func (a *archive) Manifest(_ context.Context, ref string) (v1.Descriptor, []byte, error) {
	h, err := v1.NewHash(ref)
	if err != nil {
		return v1.Descriptor{}, nil, err
	}
	raw, err := a.verified(h)
	return v1.Descriptor{Digest: h, Size: int64(len(raw))}, raw, err
}

// Blob implements [Source].
func (a *archive) Blob(ctx context.Context, d v1.Descriptor, offset int64) (io.ReadCloser, error) {
	return a.opener(blobPath(d.Digest))(ctx, offset)
}

// Referrers implements [Source]: an index.json lists what refers to its images beside them.
func (a *archive) Referrers(_ context.Context, h v1.Hash) ([]v1.Descriptor, error) {
	return a.subjects[h], nil
}

func parseIndex(raw []byte) (*v1.IndexManifest, error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, &unpack.FormatError{Reason: fmt.Sprintf("has an index that cannot be parsed: %v", err)}
	}
	if n := len(index.Manifests); n > maxImages {
		return nil, tooMany("images in an index", n, maxImages)
	}
	return index, nil
}

// isAttestation tells BuildKit's statements about an image from images.
func isAttestation(d v1.Descriptor) bool {
	return d.Annotations["vnd.docker.reference.type"] != "" || d.Platform != nil && d.Platform.OS == "unknown"
}

func blobPath(h v1.Hash) string { return path.Join("blobs", h.Algorithm, h.Hex) }

// verified returns a small blob, after comparing it with its digest.
func (a *archive) verified(h v1.Hash) ([]byte, error) {
	raw, err := a.document(blobPath(h), maxDocument)
	if err != nil {
		return nil, err
	}
	return raw, compareDigest(blobPath(h), raw, h)
}

func compareDigest(file string, raw []byte, want v1.Hash) error {
	got, _, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	if got != want {
		return &unpack.FormatError{
			Reason: fmt.Sprintf("has a file %s whose digest is %s", file, got),
			Remedy: "the archive is damaged or was tampered with: fetch or make it again",
		}
	}
	return nil
}
