package sample

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Archive writes an archive of images that is an OCI layout and what `docker save` writes, in one. The prefix goes
// before their names.
func (s *Shelf) Archive(file, prefix string, images ...Image) error {
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("write an archive of images: %w", err)
	}
	defer f.Close()
	a := archive{s, tar.NewWriter(f), map[v1.Hash]bool{}}
	if err := a.images(prefix, images); err != nil {
		return fmt.Errorf("write an archive of images: %w", err)
	}
	return f.Close()
}

type archive struct {
	shelf *Shelf
	tar   *tar.Writer
	has   map[v1.Hash]bool
}

func (a archive) images(prefix string, images []Image) error {
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	var manifest tarball.Manifest
	for _, i := range images {
		name := prefix + i.Repository + ":latest"
		d := i.Manifest
		d.Platform = nil
		d.Annotations = map[string]string{"io.containerd.image.name": name,
			"org.opencontainers.image.ref.name": "latest"}
		index.Manifests = append(index.Manifests, d)
		m := tarball.Descriptor{Config: path(i.Config.Digest), RepoTags: []string{name}}
		parts := []v1.Hash{i.Manifest.Digest, i.Config.Digest}
		for _, l := range i.Layers {
			m.Layers = append(m.Layers, path(l.Blob.Digest))
			parts = append(parts, l.Blob.Digest)
		}
		manifest = append(manifest, m)
		for _, h := range parts {
			if err := a.blob(h); err != nil {
				return err
			}
		}
	}
	for _, d := range []struct {
		name string
		v    any
	}{
		{"oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"}}, {"index.json", index},
		{"manifest.json", manifest},
	} {
		text, err := json.Marshal(d.v)
		if err != nil {
			return err
		}
		if err := a.header(d.name, int64(len(text))); err != nil {
			return err
		}
		if _, err := a.tar.Write(text); err != nil {
			return err
		}
	}
	return a.tar.Close()
}

func path(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

func (a archive) header(name string, size int64) error {
	return a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: written})
}

// blob writes a blob, once.
func (a archive) blob(h v1.Hash) error {
	if a.has[h] {
		return nil
	}
	a.has[h] = true
	f, err := os.Open(a.shelf.blob(h))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := a.header(path(h), info.Size()); err != nil {
		return err
	}
	_, err = io.Copy(a.tar, f)
	return err
}
