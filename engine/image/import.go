package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image/unpack"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Import makes an image with one layer of a root filesystem tar, which may be
// compressed with gzip, zstd, xz or bzip2. A reference that another image had
// moves to the new one. Reading r should end with ctx, as nothing else can end it.
func (s *Store) Import(ctx context.Context, r io.Reader, o ImportOptions) (Image, error) {
	img, err := s.importTar(ctx, r, o)
	if err != nil {
		return Image{}, fmt.Errorf("import root filesystem: %w", err)
	}
	return img, nil
}

func (s *Store) importTar(ctx context.Context, r io.Reader, o ImportOptions) (img Image, err error) {
	config, refs, err := importConfig(o, time.Now().UTC())
	if err != nil {
		return Image{}, err
	}
	in := s.content.intake()
	defer func() { err = s.settle(ctx, in, arrival{}, err) }()
	u, d, err := in.compress(ctx, r, unpack.Options{})
	if err != nil {
		return Image{}, err
	}
	if err := notAnImage(u.dir); err != nil {
		return Image{}, errors.Join(err, u.discard())
	}
	layer, err := in.adopt(ctx, u, u.diffID, d)
	if err != nil {
		return Image{}, err
	}
	config.RootFS.DiffIDs = []v1.Hash{u.diffID}
	if err := in.complete(ctx, []*placed{layer}, config.RootFS.DiffIDs); err != nil {
		return Image{}, err
	}
	a := arrival{refs: refs, parsed: config}
	if a.config, err = json.Marshal(config); err != nil {
		return Image{}, fmt.Errorf("write configuration: %w", err)
	}
	return s.finish(ctx, in, a, []*placed{layer})
}

// importConfig makes the configuration, and the references, before anything
// is read: a mistake in them costs no time.
func importConfig(o ImportOptions, now time.Time) (*v1.ConfigFile, []string, error) {
	var refs []string
	if o.Reference != "" {
		short, err := ParseReference(o.Reference)
		if err != nil {
			return nil, nil, err
		}
		refs = []string{short}
	}
	c := &v1.ConfigFile{
		OS: "linux", Architecture: runtime.GOARCH, Author: o.Author, Created: v1.Time{Time: now},
		RootFS:  v1.RootFS{Type: "layers"},
		History: []v1.History{{Created: v1.Time{Time: now}, CreatedBy: "net import", Comment: o.Message}},
	}
	if o.Platform != "" {
		p, err := v1.ParsePlatform(o.Platform)
		if err != nil || p.OS != "linux" || p.Architecture == "" {
			return nil, nil, &cnm.Error{Kind: cnm.ErrInvalid, Field: "platform", Value: o.Platform,
				Reason: "is not linux/ARCHITECTURE", Remedy: "use linux/amd64 or linux/arm64, for example"}
		}
		c.Architecture, c.Variant = p.Architecture, p.Variant
	}
	if err := ApplyChanges(&c.Config, o.Changes); err != nil {
		return nil, nil, err
	}
	if raw, err := json.Marshal(c); err != nil {
		return nil, nil, err
	} else if err := checkAmounts(c, raw); err != nil {
		return nil, nil, fmt.Errorf("the configuration %w", err)
	}
	return c, refs, nil
}

// notAnImage refuses what 'net load' is for: its content would be a root
// filesystem of blobs, in which no command is ever found.
func notAnImage(dir string) error {
	for _, marker := range []string{"manifest.json", "oci-layout"} {
		if _, err := os.Lstat(filepath.Join(dir, "fs", marker)); err != nil {
			continue
		}
		for _, usual := range []string{"bin", "usr", "etc", "lib"} {
			if _, err := os.Lstat(filepath.Join(dir, "fs", usual)); err == nil {
				return nil
			}
		}
		return &unpack.FormatError{
			Reason: fmt.Sprintf("is an image archive (it holds %s) and not a root filesystem", marker),
			Remedy: "bring it in with 'net load'",
		}
	}
	return nil
}
