package sample

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Shelf is a directory of blobs and of the layers' archives before they were compressed.
type Shelf struct{ dir string }

// NewShelf makes one.
func NewShelf(dir string) (*Shelf, error) {
	for _, d := range []string{"plain", "blobs/sha256"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("make a shelf of images: %w", err)
		}
	}
	return &Shelf{dir}, nil
}

// Plain is an archive that a layer is made of.
type Plain struct {
	File string
	ID   v1.Hash // of the archive: the layer's diff ID
	Size int64
}

// Layer is one as registries have it.
type Layer struct {
	Plain
	Blob v1.Descriptor
	Path string // of the blob
}

// Plain writes the archive of a layer.
func (s *Shelf) Plain(write func(*tar.Writer) error) (Plain, error) {
	var p Plain
	err := s.keep("plain", func(w io.Writer) error {
		t := tar.NewWriter(w)
		if err := write(t); err != nil {
			return err
		}
		return t.Close()
	}, func(path string, id v1.Hash, size int64) { p = Plain{path, id, size} })
	if err != nil {
		return p, fmt.Errorf("write the archive of a layer: %w", err)
	}
	return p, nil
}

// Compressions that layers come in, by what builders of images write.
const (
	Gzip = "gzip"
	Zstd = "zstd"
)

// Layer compresses an archive, as builders of images do unless they are told how.
func (s *Shelf) Layer(p Plain, compression string) (Layer, error) {
	l := Layer{Plain: p, Blob: v1.Descriptor{MediaType: types.OCILayer}}
	if compression == Zstd {
		l.Blob.MediaType = types.OCILayerZStd
	}
	err := s.keep("blobs/sha256", func(w io.Writer) error {
		var packer io.WriteCloser = gzip.NewWriter(w)
		if compression == Zstd {
			var err error
			if packer, err = zstd.NewWriter(w, zstd.WithEncoderConcurrency(1)); err != nil {
				return err
			}
		}
		f, err := os.Open(p.File)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := io.Copy(packer, f); err != nil {
			return err
		}
		return packer.Close()
	}, func(path string, digest v1.Hash, size int64) { l.Path, l.Blob.Digest, l.Blob.Size = path, digest, size })
	if err != nil {
		return l, fmt.Errorf("compress a layer: %w", err)
	}
	return l, nil
}

// Open decompresses the layer on the caller's thread alone, by the library that netd has.
func (l Layer) Open() (io.ReadCloser, error) {
	f, err := os.Open(l.Path)
	if err != nil {
		return nil, fmt.Errorf("decompress a layer: %w", err)
	}
	var r io.ReadCloser
	if l.Blob.MediaType == types.OCILayerZStd {
		var d *zstd.Decoder
		if d, err = zstd.NewReader(f, zstd.WithDecoderConcurrency(1)); err == nil {
			r = d.IOReadCloser()
		}
	} else {
		r, err = gzip.NewReader(f)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("decompress a layer: %w", err), f.Close())
	}
	return &opened{r, f}, nil
}

// opened closes the file, too.
type opened struct {
	io.ReadCloser
	file *os.File
}

func (o *opened) Close() error { return errors.Join(o.ReadCloser.Close(), o.file.Close()) }

// keep writes a file under its digest.
func (s *Shelf) keep(dir string, write func(io.Writer) error, kept func(string, v1.Hash, int64)) error {
	f, err := os.CreateTemp(filepath.Join(s.dir, dir), "new-")
	if err != nil {
		return err
	}
	defer f.Close()
	w := &digester{w: f, sum: sha256.New()}
	if err := write(w); err != nil {
		return err
	}
	digest := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(w.sum.Sum(nil))}
	path := filepath.Join(s.dir, dir, digest.Hex)
	kept(path, digest, w.size)
	return os.Rename(f.Name(), path)
}

// digester sums up what is written.
type digester struct {
	w    io.Writer
	sum  hash.Hash
	size int64
}

func (d *digester) Write(b []byte) (int, error) {
	n, err := d.w.Write(b)
	d.size += int64(n)
	d.sum.Write(b[:n])
	return n, err
}

// Image is one of these layers, for this machine's architecture.
type Image struct {
	Repository string // without the registry
	Layers     []Layer
	Config     v1.Descriptor
	Manifest   v1.Descriptor
	manifest   []byte
}

// Image makes an image of layers. Its name is that of a repository; its tag is "latest".
func (s *Shelf) Image(name string, layers ...Layer) (Image, error) {
	img := Image{Repository: name, Layers: layers}
	config := v1.ConfigFile{Architecture: runtime.GOARCH, OS: "linux", Created: v1.Time{Time: written},
		Config: v1.Config{Cmd: []string{"true"}, Env: []string{"PATH=/bin"}, Labels: map[string]string{"name": name}},
		RootFS: v1.RootFS{Type: "layers"}}
	manifest := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
	for n, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.ID)
		config.History = append(config.History, v1.History{Created: v1.Time{Time: written},
			CreatedBy: fmt.Sprintf("layer %d", n+1)})
		manifest.Layers = append(manifest.Layers, l.Blob)
	}
	var err error
	if img.Config, _, err = s.document(types.OCIConfigJSON, config); err != nil {
		return img, fmt.Errorf("make image %s: %w", name, err)
	}
	manifest.Config = img.Config
	if img.Manifest, img.manifest, err = s.document(types.OCIManifestSchema1, manifest); err != nil {
		return img, fmt.Errorf("make image %s: %w", name, err)
	}
	return img, nil
}

// document keeps a blob of JSON.
func (s *Shelf) document(media types.MediaType, v any) (v1.Descriptor, []byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return v1.Descriptor{}, nil, err
	}
	d := v1.Descriptor{MediaType: media}
	err = s.keep("blobs/sha256", func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(text))
		return err
	}, func(_ string, digest v1.Hash, size int64) { d.Digest, d.Size = digest, size })
	return d, text, err
}

// blob is where a blob is kept.
func (s *Shelf) blob(h v1.Hash) string { return filepath.Join(s.dir, "blobs", h.Algorithm, h.Hex) }
