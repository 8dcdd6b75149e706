package image_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// intact fails unless every blob is what its digest says, and each image can be saved.
func (f *fixture) intact(t *testing.T) {
	t.Helper()
	for _, name := range f.blobs(t) {
		if b, err := os.ReadFile(filepath.Join(f.root, name)); err != nil || sum(t, b).Hex != filepath.Base(name) {
			t.Errorf("blob %s has %d bytes that are not its own, %v", name, len(b), err)
		}
	}
	all, err := f.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range all {
		if err := f.Save(t.Context(), new(bytes.Buffer), []string{img.ID}, image.SaveOptions{}); err != nil {
			t.Errorf("image %s cannot be saved any more: %v", img.References, err)
		}
	}
}

// another has the largest layer of a sample be something else.
func another(c *v1.ConfigFile) {
	c.RootFS.DiffIDs[1] = v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("ab", 32)}
}

// lies are shelves whose one image names a blob of another image, and does not tell the truth about it.
func lies(t *testing.T, img v1.Image) map[string]*shelf {
	t.Helper()
	out := map[string]*shelf{}
	d := largest(t, img)
	wrong := newShelf()
	wrong.put(t, "1", lie(t, img, another))
	out["of what is in it"] = wrong
	for name, size := range map[string]int64{"of no bytes": 0, "of one byte": 1, "of more bytes": d.Size + 9} {
		s := newShelf()
		s.put(t, "1", lie(t, img, another))
		raw := bytes.ReplaceAll(s.manifests[s.tags["1"]].raw, fmt.Appendf(nil, `"size":%d,`, d.Size),
			fmt.Appendf(nil, `"size":%d,`, size))
		s.tags["1"] = s.document(t, raw)
		s.blobs[d.Digest] = append(bytes.Clone(s.blobs[d.Digest]), "and more."...)[:size]
		out[name] = s
	}
	return out
}

// An image that says something wrong of another one's blob must not take it away.
func TestLiesHarmNoOtherImage(t *testing.T) {
	img := sample(t)
	for name, bad := range lies(t, img) {
		t.Run(name, func(t *testing.T) {
			good := newShelf()
			good.put(t, "1", img)
			f := open(t)
			f.mustPull(t, "app:1", good)
			before := f.blobs(t)
			if _, err := f.Pull(t.Context(), "bad:1", bad, image.PullOptions{}); !errors.Is(err, cnm.ErrInvalid) {
				t.Errorf("pull: %v", err)
			}
			if after := f.blobs(t); fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("blobs were %v and are %v", before, after)
			}
			f.intact(t)
		})
	}
}

// Nor may it change what another pull has verified and not published yet.
func TestLiesHarmNoOtherPull(t *testing.T) {
	img := sample(t)
	bring := map[string]func(*fixture) error{}
	for name, bad := range lies(t, img) {
		bring["a pull "+name] = func(f *fixture) error {
			_, err := f.Pull(t.Context(), "bad:1", bad, image.PullOptions{})
			return err
		}
	}
	d := largest(t, img)
	data := layoutArchive(t, func(p layout.Path) error {
		return p.AppendImage(lie(t, img, another))
	})
	data = edit(t, data, func(name string, body []byte) []byte {
		if filepath.Base(name) == d.Digest.Hex {
			body = bytes.Clone(body)
			body[len(body)/2] ^= 1
		}
		return body
	})
	bring["a load of other content"] = func(f *fixture) error {
		_, err := f.Load(t.Context(), bytes.NewReader(data))
		return err
	}
	for name, bad := range bring {
		t.Run(name, func(t *testing.T) { pullBeside(t, img, d, bad) })
	}
}

// pullBeside pulls an image, and does something else when its largest layer was verified, and the first was not.
func pullBeside(t *testing.T, img v1.Image, verified v1.Descriptor, do func(*fixture) error) {
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	good, release := newShelf(), make(chan struct{})
	good.put(t, "1", img)
	good.opened = func(d v1.Descriptor, _ int64) error {
		if d.Digest == m.Layers[0].Digest {
			<-release
		}
		return nil
	}
	f, there, done := open(t), make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := f.Pull(t.Context(), "app:1", good, image.PullOptions{Report: func(p image.Progress) {
			if p.Part == verified.Digest.String() && p.Action == image.ActionPulled {
				close(there)
			}
		}})
		done <- err
	}()
	<-there
	other := make(chan error, 1)
	go func() { other <- do(f) }()
	var bad error
	for ended := false; !ended; {
		if b, err := os.ReadFile(filepath.Join(f.root, "ingest", verified.Digest.Hex)); err != nil ||
			sum(t, b) != verified.Digest {
			t.Errorf("what was verified has %d bytes now, %v", len(b), err)
			bad, ended = <-other, true
			continue
		}
		select {
		case bad = <-other:
			ended = true
		default:
		}
	}
	close(release)
	if err := <-done; err != nil {
		t.Errorf("the pull beside it: %v", err)
	}
	if !errors.Is(bad, cnm.ErrInvalid) {
		t.Errorf("what lies was brought in: %v", bad)
	}
	f.intact(t)
}
