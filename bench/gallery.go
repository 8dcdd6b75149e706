package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/vethloom/vethloom/bench/sample"
)

// picture is an image that is brought in.
type picture struct {
	title   string
	kind    string
	image   sample.Image
	archive string // with it; empty: it is pulled alone
}

// gallery is what the engines are given: images, a registry that has them, and archives of them.
type gallery struct {
	shelf    *sample.Shelf
	inside   []string // what leads into the network namespace of the registry and the engines
	registry *sample.Registry
	pictures []picture
	deep     []picture // of many layers, to be run
	many     []sample.Image
	archive  string // of the many
}

// shares are the layers' of an image of ten, in percent: one large one at the bottom, as images have it.
var shares = []int64{36, 20, 14, 10, 7, 5, 3, 2, 2, 1}

// manyImages are removed at once.
const manyImages = 50

// layersOfDeep are what Docker's own storage takes at most, and more.
var layersOfDeep = []int{125, 127}

func newGallery(ctx context.Context, m *machine) (*gallery, error) {
	shelf, err := sample.NewShelf(filepath.Join(m.dir, "shelf"))
	if err != nil {
		return nil, err
	}
	const netns = "/run/netns/images"
	g := &gallery{shelf: shelf, inside: []string{"nsenter", "--net=" + netns}}
	if err := g.make(m); err != nil {
		return nil, err
	}
	if err := newNetns(netns); err != nil {
		return nil, err
	}
	if err := ips(ctx, netns, "link set lo up"); err != nil {
		return nil, err
	}
	var listener net.Listener
	if err := <-inside(netns, func() error {
		var l net.ListenConfig
		var err error
		listener, err = l.Listen(ctx, "tcp", "127.0.0.1:0")
		return err
	}); err != nil {
		return nil, err
	}
	var all []sample.Image
	for _, p := range append(g.pictures, g.deep...) {
		all = append(all, p.image)
	}
	if g.registry, err = shelf.Serve(ctx, listener, all...); err != nil {
		return nil, err
	}
	m.defers(func() {
		if err := g.registry.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "bench: end the registry:", err)
		}
	})
	return g, nil
}

// make makes all images.
func (g *gallery) make(m *machine) error {
	var parts []sample.Plain
	for n, share := range shares {
		p, err := g.shelf.Plain(sample.Programs(uint64(n), "usr", int64(m.cfg.imageSize)*share*1e4))
		if err != nil {
			return err
		}
		parts = append(parts, p)
	}
	small, err := g.shelf.Plain(sample.Small(100, "srv", m.cfg.imageFiles))
	if err != nil {
		return err
	}
	for _, p := range []struct {
		title, kind, compression, archive string
		parts                             []sample.Plain
	}{
		{"gzip", kindPlain, sample.Gzip, "gzip.tar", parts},
		{"zstd", kindZstd, sample.Zstd, "", parts},
		{fmt.Sprintf("%d files", m.cfg.imageFiles), kindPlain, sample.Gzip, "files.tar", []sample.Plain{small}},
	} {
		if err := g.picture(m, p.title, p.kind, p.compression, p.archive, p.parts); err != nil {
			return err
		}
	}
	return g.system(m)
}

func (g *gallery) picture(m *machine, title, kind, compression, archive string, parts []sample.Plain) error {
	var layers []sample.Layer
	for _, p := range parts {
		l, err := g.shelf.Layer(p, compression)
		if err != nil {
			return err
		}
		layers = append(layers, l)
	}
	img, err := g.shelf.Image(fmt.Sprintf("bench/picture%d", len(g.pictures)), layers...)
	if err != nil {
		return err
	}
	p := picture{title: title, kind: kind, image: img}
	if archive != "" {
		p.archive = filepath.Join(m.dir, archive)
		if err := g.shelf.Archive(p.archive, archivePrefix, img); err != nil {
			return err
		}
	}
	g.pictures = append(g.pictures, p)
	return nil
}

// archivePrefix is what the names of images in archives begin with: a registry that is never asked.
const archivePrefix = "example.org/"

// system makes the images that have a root filesystem.
func (g *gallery) system(m *machine) error {
	f, err := os.Open(m.tar)
	if err != nil {
		return err
	}
	defer f.Close()
	plain, err := g.shelf.Plain(sample.Tree(f))
	if err != nil {
		return err
	}
	base, err := g.shelf.Layer(plain, sample.Gzip)
	if err != nil {
		return err
	}
	stack := []sample.Layer{base}
	for n := range max(manyImages, layersOfDeep[len(layersOfDeep)-1]-1) {
		size := int64(20e3)
		if n < manyImages {
			size = 1e6
		}
		p, err := g.shelf.Plain(sample.Programs(uint64(1000+n), fmt.Sprintf("usr%d", n), size))
		if err != nil {
			return err
		}
		l, err := g.shelf.Layer(p, sample.Gzip)
		if err != nil {
			return err
		}
		stack = append(stack, l)
	}
	for _, n := range layersOfDeep {
		img, err := g.shelf.Image(fmt.Sprintf("bench/deep%d", n), stack[:n]...)
		if err != nil {
			return err
		}
		g.deep = append(g.deep, picture{title: fmt.Sprintf("%d layers", n), kind: kindDeep, image: img})
	}
	for n := range manyImages {
		img, err := g.shelf.Image(fmt.Sprintf("bench/many%d", n), base, stack[n+1])
		if err != nil {
			return err
		}
		g.many = append(g.many, img)
	}
	g.archive = filepath.Join(m.dir, "many.tar")
	return g.shelf.Archive(g.archive, archivePrefix, g.many...)
}

// inArchive is the name that an image has in archives.
func inArchive(i sample.Image) string { return archivePrefix + i.Repository + ":latest" }
