package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/image/unpack"
	"github.com/vethloom/vethloom/engine/rootfile"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// content is what images are made of:
//
//	blobs/sha256/<hex>       manifests, configurations, layers as registries have them
//	ingest/<hex>             a blob that is being fetched, or was until the fetch broke off
//	layers/<hex>/fs          a layer as overlayfs shows it, by its diff ID; by its chain ID when it needs layers below
//	layers/<hex>/layer.json  layerInfo
//	tmp/                     what is half-done; nothing refers to it
//
// Blobs and layers appear with one rename, complete and synced, and go the same way.
type content struct {
	disk
	log    *slog.Logger
	wide   *wideWindows
	thrift thrift

	mu   sync.Mutex      // held while blobs and layers appear, disappear, or are pinned
	pins map[string]*pin // by pinKey

	measured sync.Map // path of a layer → bytes
}

// layerInfo is what is known of a layer besides its content.
type layerInfo struct {
	DiffID  string `json:"diffID"`
	Size    int64  `json:"size"`    // bytes in regular files
	TarSize int64  `json:"tarSize"` // bytes of the uncompressed tar
	// Blob is what the layer was unpacked from; the zero one for a layer of an earlier version.
	Blob v1.Descriptor `json:"blob,omitzero"`
	// Needs is what the layer takes from those below: with some, it is complete for one chain ID alone.
	Needs unpack.Needs `json:"needs,omitzero"`
}

func openContent(root string, log *slog.Logger, steps func(string) error) (*content, error) {
	root, err := filepath.Abs(root) // layers are mounted by processes elsewhere
	if err != nil {
		return nil, fmt.Errorf("find image directory: %w", err)
	}
	c := &content{disk: disk{root: root, steps: steps}, log: log, wide: newWideWindows(), pins: map[string]*pin{}}
	for _, dir := range []string{root, c.layersDir(), c.blobsDir(), c.ingestDir(), c.tmp()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make image directory: %w", diskError(root, err))
		}
	}
	left, err := os.ReadDir(c.tmp())
	if err != nil {
		return nil, fmt.Errorf("look for what killed imports left: %w", err)
	}
	for _, e := range left {
		if err := rootfile.RemoveTree(filepath.Join(c.tmp(), e.Name())); err != nil {
			return nil, fmt.Errorf("remove what a killed import left: %w", err)
		}
	}
	if len(left) > 0 {
		log.Info("removed what killed imports left", "dir", c.tmp(), "entries", len(left))
	}
	return c, nil
}

func (c *content) layersDir() string { return filepath.Join(c.root, "layers") }
func (c *content) blobsDir() string  { return filepath.Join(c.root, "blobs", "sha256") }
func (c *content) ingestDir() string { return filepath.Join(c.root, "ingest") }

// blob is where a blob is kept.
func (c *content) blob(h v1.Hash) string { return filepath.Join(c.blobsDir(), h.Hex) }

// ingest is where a blob is while it is fetched.
func (c *content) ingest(h v1.Hash) string { return filepath.Join(c.ingestDir(), h.Hex) }

// layer is where a layer is kept under a diff ID or a chain ID, in hexadecimal digits.
func (c *content) layer(key string) string { return filepath.Join(c.layersDir(), key) }

// fs is the directory of a layer that overlayfs takes.
func (c *content) fs(key string) string { return filepath.Join(c.layer(key), "fs") }

// info reads what is known of a layer; fs.ErrNotExist when it is not there.
func (c *content) info(key string) (layerInfo, error) {
	b, err := os.ReadFile(filepath.Join(c.layer(key), "layer.json"))
	if err != nil {
		return layerInfo{}, err
	}
	var info layerInfo
	if err := json.Unmarshal(b, &info); err != nil {
		return layerInfo{}, fmt.Errorf("read %s: %w", filepath.Join(c.layer(key), "layer.json"), err)
	}
	return info, nil
}

// hasBlob reports whether a blob is there, with the size that it should have.
func (c *content) hasBlob(h v1.Hash, size int64) bool {
	var st unix.Stat_t
	return unix.Lstat(c.blob(h), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && (size < 0 || st.Size == size)
}

// mend moves parts of a layer that was unpacked into the place of those that are missing where it is kept, and reports
// whether any were.
func (c *content) mend(dir, key string) (bool, error) {
	if _, err := os.Lstat(c.layer(key)); err != nil {
		return false, ignoreMissing(err)
	}
	mended := false
	for _, part := range []string{"fs", "layer.json"} {
		if _, err := os.Lstat(filepath.Join(c.layer(key), part)); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := c.rename(filepath.Join(dir, part), filepath.Join(c.layer(key), part)); err != nil {
			return mended, err
		}
		mended = true
	}
	return mended, nil
}

// publish gives what is in the temporary directory its place, unless the same is there.
func (c *content) publish(from, to string) error {
	err := c.rename(from, to)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) {
		return nil
	}
	return err
}
