package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"strings"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image/unpack"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// maxNesting is how deep indexes of indexes are followed.
const maxNesting = 4

// hostPlatform is what images for this host are for.
func hostPlatform() v1.Platform { return v1.Platform{OS: "linux", Architecture: runtime.GOARCH} }

// parsePlatform reads OS/architecture[/variant]; "" is this host's.
func parsePlatform(text string) (v1.Platform, error) {
	if text == "" {
		return hostPlatform(), nil
	}
	p, err := v1.ParsePlatform(text)
	if err != nil || p.OS != "linux" || p.Architecture == "" {
		return v1.Platform{}, &cnm.Error{Kind: cnm.ErrInvalid, Field: "platform", Value: text,
			Reason: "is not linux/ARCHITECTURE", Remedy: "use linux/amd64 or linux/arm64, for example"}
	}
	return *p, nil
}

// resolve follows indexes to the manifest for a platform, and reads it and its configuration.
func (a *arrival) resolve(ctx context.Context, src Source, d v1.Descriptor, raw []byte, want v1.Platform) error {
	for range maxNesting + 1 {
		a.documents = append(a.documents, raw)
		kind, err := kindOf(d, raw)
		if err != nil {
			return err
		}
		if kind == types.OCIManifestSchema1 || kind == types.DockerManifestSchema2 {
			a.manifest = v1.Descriptor{MediaType: kind, Digest: digestOf(raw), Size: int64(len(raw))}
			return a.readManifest(ctx, src, raw)
		}
		index, err := parseIndex(raw)
		if err != nil {
			return err
		}
		chosen, err := choose(index.Manifests, want)
		if err != nil {
			return err
		}
		if err := checkDescriptor(chosen, maxDocument); err != nil {
			return err
		}
		if d, raw, err = src.Manifest(ctx, chosen.Digest.String()); err != nil {
			return err
		}
		if digestOf(raw) != chosen.Digest {
			return &mismatchError{want: chosen.Digest, got: digestOf(raw).Hex}
		}
		d.MediaType = chosen.MediaType
	}
	return &unpack.FormatError{Reason: "nests indexes too deep"}
}

// kindOf tells a manifest from an index. One that could be read as either is refused: two readers would run two
// different images of one digest (CVE-2021-41190).
func kindOf(d v1.Descriptor, raw []byte) (types.MediaType, error) {
	var doc struct {
		MediaType types.MediaType `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
		Layers    json.RawMessage `json:"layers"`
		Config    json.RawMessage `json:"config"`
		FSLayers  json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return "", &unpack.FormatError{Reason: fmt.Sprintf("has a manifest that cannot be parsed: %v", err)}
	}
	index, image := doc.Manifests != nil, doc.Layers != nil || doc.Config != nil
	kind := d.MediaType
	switch {
	case index && image:
		return "", &unpack.FormatError{Reason: "has a manifest that is an index too"}
	case doc.FSLayers != nil:
		return "", &unpack.FormatError{Reason: "has a manifest of schema 1, which nobody can verify",
			Remedy: "have it pushed anew with a current client"}
	case kind == "" && doc.MediaType != "":
		kind = doc.MediaType
	case kind == "" && index:
		kind = types.OCIImageIndex
	case kind == "":
		kind = types.OCIManifestSchema1
	case doc.MediaType != "" && doc.MediaType != kind:
		return "", &unpack.FormatError{Reason: fmt.Sprintf("has a manifest that says that it is of type %q, and "+
			"it came as %q", doc.MediaType, kind)}
	}
	switch kind {
	case types.OCIManifestSchema1, types.DockerManifestSchema2:
		if !index {
			return kind, nil
		}
	case types.OCIImageIndex, types.DockerManifestList:
		if !image {
			return kind, nil
		}
	default:
		return "", &unpack.FormatError{Reason: fmt.Sprintf("holds something of type %q, which is no image", kind)}
	}
	return "", &unpack.FormatError{Reason: fmt.Sprintf("has a manifest that is not of its type, %q", kind)}
}

// readManifest takes the layers from a manifest, and reads the configuration.
func (a *arrival) readManifest(ctx context.Context, src Source, raw []byte) error {
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return &unpack.FormatError{Reason: fmt.Sprintf("has a manifest that cannot be parsed: %v", err)}
	}
	if len(m.Layers) > maxLayers {
		return tooMany("layers", len(m.Layers), maxLayers)
	}
	switch m.Config.MediaType {
	case types.OCIConfigJSON, types.DockerConfigJSON, "":
	default:
		return &unpack.FormatError{Reason: fmt.Sprintf("is no image, but something of type %q", m.Config.MediaType)}
	}
	if err := checkDescriptor(m.Config, maxConfig); err != nil {
		return err
	}
	for _, l := range m.Layers {
		if err := checkDescriptor(l, 0); err != nil {
			return err
		}
		if !l.MediaType.IsLayer() && l.MediaType != zstdOfDocker && l.MediaType != "" {
			return &unpack.FormatError{Reason: fmt.Sprintf("has a layer of type %q, which is none of a filesystem",
				l.MediaType)}
		}
		a.layers = append(a.layers, source{blob: l, open: blobOf(src, l)})
	}
	a.config, err = readAll(ctx, src, m.Config)
	return err
}

func blobOf(src Source, d v1.Descriptor) opener {
	return func(ctx context.Context, offset int64) (io.ReadCloser, error) { return src.Blob(ctx, d, offset) }
}

// zstdOfDocker is what some builders call a layer that is compressed with zstd.
const zstdOfDocker = types.MediaType("application/vnd.docker.image.rootfs.diff.tar.zstd")

// readAll reads a small blob into memory, and compares it with its digest.
func readAll(ctx context.Context, src Source, d v1.Descriptor) ([]byte, error) {
	r, err := src.Blob(ctx, d, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, d.Size+1))
	if err != nil {
		return nil, fmt.Errorf("read blob %s: %w", d.Digest, err)
	}
	if digestOf(raw) != d.Digest {
		return nil, &mismatchError{want: d.Digest, got: digestOf(raw).Hex}
	}
	return raw, nil
}

// checkDescriptor refuses what cannot be fetched. limit is in bytes; 0 is for none.
func checkDescriptor(d v1.Descriptor, limit int64) error {
	switch {
	case d.Digest.Algorithm != "sha256":
		return &unpack.FormatError{Reason: fmt.Sprintf("has a %s digest, and only sha256 is known", d.Digest.Algorithm)}
	case d.Size < 0:
		return &unpack.FormatError{Reason: fmt.Sprintf("has a blob of %d bytes", d.Size)}
	case limit > 0 && d.Size > limit:
		return &unpack.FormatError{Reason: fmt.Sprintf("has a manifest or configuration %s of %d bytes, and the limit "+
			"is %d", d.Digest, d.Size, limit)}
	}
	return nil
}

// maxPlatforms bounds what an error tells of an index's platforms, in bytes: an index may have 4 MiB of them.
const maxPlatforms = 512

// choose picks the image for a platform of those for several.
func choose(ds []v1.Descriptor, want v1.Platform) (v1.Descriptor, error) {
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
	only := strings.Join(have, ", ")
	if len(only) > maxPlatforms {
		only = strings.ToValidUTF8(only[:maxPlatforms], "") + "…"
	}
	return v1.Descriptor{}, &unpack.FormatError{
		Reason: fmt.Sprintf("has no image for %s, only for %s", want, only),
		Remedy: "choose one of these with --platform, or have the image made for this platform",
	}
}
