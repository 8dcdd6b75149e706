package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"runtime"
	"strings"

	"github.com/vethloom/vethloom/engine/image/unpack"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// dockerImages reads the manifest of 'docker save'.
func dockerImages(a *archive) ([]candidate, error) {
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
	var out []candidate
	for _, d := range m {
		c := candidate{name: d.Config}
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
			c.layers = append(c.layers, a.opener(l))
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

func (a *archive) opener(name string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		p, err := a.part(name)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(p), nil
	}
}

// nameAnnotation is where containerd and BuildKit put an image's whole name;
// the OCI's own annotation often holds the tag alone.
const nameAnnotation = "io.containerd.image.name"

// layoutImages reads an OCI image layout.
func layoutImages(a *archive) ([]candidate, error) {
	raw, err := a.document("index.json", maxDocument)
	if err != nil {
		return nil, err
	}
	index, err := parseIndex(raw)
	if err != nil {
		return nil, err
	}
	var out []candidate
	for _, d := range index.Manifests {
		if isAttestation(d) {
			continue
		}
		c, err := a.layoutImage(d)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, &unpack.FormatError{Reason: "holds no image: its index.json is empty"}
	}
	return out, nil
}

func (a *archive) layoutImage(d v1.Descriptor) (candidate, error) {
	c := candidate{name: d.Digest.String()}
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
	m, err := a.imageManifest(d, 0)
	if err != nil {
		return c, fmt.Errorf("image %s: %w", c.name, err)
	}
	file := blobPath(m.Config.Digest)
	if c.config, err = a.config(file); err == nil {
		err = compareDigest(file, c.config, m.Config.Digest)
	}
	if err != nil {
		return c, fmt.Errorf("image %s: %w", c.name, err)
	}
	if len(m.Layers) > maxLayers {
		return c, fmt.Errorf("image %s: %w", c.name, tooMany("layers", len(m.Layers), maxLayers))
	}
	for _, l := range m.Layers {
		c.layers = append(c.layers, a.opener(blobPath(l.Digest)))
	}
	return c, nil
}

// looksLikeTag tells a tag from a repository's name where either may be: a
// name starts with a letter, and latest is what people leave out.
func looksLikeTag(s string) bool {
	return s == "latest" || s[0] >= '0' && s[0] <= '9' || len(s) > 1 && s[0] == 'v' && s[1] >= '0' && s[1] <= '9'
}

// maxNesting is how deep indexes of indexes are followed.
const maxNesting = 4

// imageManifest follows indexes to the manifest for this host.
func (a *archive) imageManifest(d v1.Descriptor, depth int) (*v1.Manifest, error) {
	if depth > maxNesting {
		return nil, &unpack.FormatError{Reason: "nests indexes too deep"}
	}
	raw, err := a.verified(d.Digest)
	if err != nil {
		return nil, err
	}
	switch d.MediaType {
	case types.OCIImageIndex, types.DockerManifestList:
		index, err := parseIndex(raw)
		if err != nil {
			return nil, err
		}
		chosen, err := choose(index.Manifests)
		if err != nil {
			return nil, err
		}
		return a.imageManifest(chosen, depth+1)
	case types.OCIManifestSchema1, types.DockerManifestSchema2, "":
		m, err := v1.ParseManifest(bytes.NewReader(raw))
		if err != nil {
			return nil, &unpack.FormatError{Reason: fmt.Sprintf("has a manifest that cannot be parsed: %v", err)}
		}
		return m, nil
	}
	return nil, &unpack.FormatError{Reason: fmt.Sprintf("holds something of type %q, which is no image", d.MediaType)}
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

// choose picks the image for this host of those for several platforms.
func choose(ds []v1.Descriptor) (v1.Descriptor, error) {
	want := v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	var have []string
	for _, d := range ds {
		if isAttestation(d) {
			continue
		}
		if d.Platform == nil || d.Platform.Satisfies(want) {
			return d, nil
		}
		have = append(have, d.Platform.String())
	}
	return v1.Descriptor{}, &unpack.FormatError{
		Reason: fmt.Sprintf("has no image for %s, only for %s", want, strings.Join(have, ", ")),
		Remedy: "save the image for this platform",
	}
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
