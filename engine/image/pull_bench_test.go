package image_test

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/internal/store/mem"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// blobLayer is a compressed layer in memory.
type blobLayer struct {
	blob         []byte
	digest, diff v1.Hash
	media        types.MediaType
}

func (b *blobLayer) Digest() (v1.Hash, error)            { return b.digest, nil }
func (b *blobLayer) DiffID() (v1.Hash, error)            { return b.diff, nil }
func (b *blobLayer) Size() (int64, error)                { return int64(len(b.blob)), nil }
func (b *blobLayer) MediaType() (types.MediaType, error) { return b.media, nil }
func (b *blobLayer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(b.blob)), nil
}
func (b *blobLayer) Uncompressed() (io.ReadCloser, error) { return nil, fmt.Errorf("not needed") }

// BenchmarkPull pulls from a repository in memory; "cpu-ms" is the processor time of a pull, which other work on the
// machine moves less than its length.
func BenchmarkPull(b *testing.B) {
	plain := distribution(b)
	for _, c := range []struct {
		name  string
		blob  []byte
		media types.MediaType
	}{
		{"gzip", run(b, plain, "gzip", "-c"), types.OCILayer},
		{"zstd", run(b, plain, "zstd", "-c"), types.OCILayerZStd},
	} {
		b.Run(c.name, func(b *testing.B) {
			layer := &blobLayer{c.blob, sum(b, c.blob), sum(b, plain), c.media}
			img, err := mutate.ConfigFile(mutate.MediaType(empty.Image, types.OCIManifestSchema1),
				&v1.ConfigFile{OS: "linux", RootFS: v1.RootFS{Type: "layers"}})
			if err == nil {
				img, err = mutate.Append(img, mutate.Addendum{Layer: layer})
			}
			if err != nil {
				b.Fatal(err)
			}
			src := newShelf()
			src.put(b, "latest", img)
			b.SetBytes(int64(len(plain)))
			var cpu time.Duration
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				f := openAt(b, filepath.Join(b.TempDir(), "images"), mem.New())
				before := processorTime(b)
				b.StartTimer()
				if _, err := f.Pull(b.Context(), "registry.test/image:latest", src, image.PullOptions{}); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				cpu += processorTime(b) - before
				b.StartTimer()
			}
			b.ReportMetric(float64(cpu.Milliseconds())/float64(b.N), "cpu-ms/op")
		})
	}
}

// processorTime is what this process has used so far.
func processorTime(tb testing.TB) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
