package image_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/internal/store/mem"
)

// distribution is like a distribution's root filesystem: thousands of small
// files, some large ones, 160 MB in all, compressible about 2:1.
func distribution(tb testing.TB) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(name string, size int) {
		body := randomBytes(size / 2)
		body = append(body, bytes.Repeat([]byte("text "), size/10)...)
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body)),
			ModTime: time.Unix(1e9, 0)}
		if err := w.WriteHeader(h); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			tb.Fatal(err)
		}
	}
	for d := range 400 {
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("usr/share/%d/", d), Typeflag: tar.TypeDir,
			Mode: 0o755}); err != nil {
			tb.Fatal(err)
		}
		for f := range 20 {
			put(fmt.Sprintf("usr/share/%d/%d", d, f), 10_000)
		}
	}
	for f := range 8 {
		put(fmt.Sprintf("usr/lib/%d", f), 10_000_000)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// BenchmarkImport compares importing with what tar needs for the same input,
// in one run. tar neither digests nor syncs; "tar+sync" syncs.
func BenchmarkImport(b *testing.B) {
	plain := distribution(b)
	for _, c := range []struct {
		name string
		data []byte
		tar  []string
	}{
		{"plain", plain, nil},
		{"gzip", run(b, plain, "gzip", "-1", "-c"), []string{"-z"}},
		{"zstd", run(b, plain, "zstd", "-c"), []string{"--zstd"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			dir := b.TempDir()
			source := filepath.Join(dir, "source")
			if err := os.WriteFile(source, c.data, 0o600); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(plain)))
			var ours, theirs, synced time.Duration
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				unix.Sync() // what the last round wrote is no one's to pay for
				f := openAt(b, filepath.Join(dir, fmt.Sprintf("images%d", i)), mem.New())
				src, err := os.Open(source)
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				start := time.Now()
				_, err = f.Import(b.Context(), src, image.ImportOptions{})
				ours += time.Since(start)
				b.StopTimer()
				if err != nil {
					b.Fatal(err)
				}
				if err := src.Close(); err != nil {
					b.Fatal(err)
				}
				t, s := untar(b, filepath.Join(dir, fmt.Sprintf("tar%d", i)), source, c.tar)
				theirs, synced = theirs+t, synced+s
				for _, used := range []string{f.root, filepath.Join(dir, fmt.Sprintf("tar%d", i))} {
					if err := os.RemoveAll(used); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
			}
			b.ReportMetric(ours.Seconds()/theirs.Seconds(), "x-tar")
			b.ReportMetric(ours.Seconds()/synced.Seconds(), "x-tar+sync")
		})
	}
}

func untar(b *testing.B, target, source string, args []string) (plain, synced time.Duration) {
	b.Helper()
	unix.Sync()
	if err := os.Mkdir(target, 0o755); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command("tar", append([]string{"-C", target, "-xf", source}, args...)...)
	cmd.Stderr = io.Discard
	start := time.Now()
	if err := cmd.Run(); err != nil {
		b.Fatal(err)
	}
	plain = time.Since(start)
	unix.Sync()
	return plain, time.Since(start)
}

// BenchmarkLoad loads an archive of 200 MB, as Save writes it.
func BenchmarkLoad(b *testing.B) {
	f := open(b)
	layers := []files{base}
	for n := range 4 {
		text := bytes.Repeat([]byte("what most files of an image are like: text that repeats itself\n"), 1<<18)
		layers = append(layers, files{{fmt.Sprintf("data%d", n), string(randomBytes(42<<20)) + string(text)}})
	}
	s := newShelf()
	s.put(b, "1", build(b, runtime.GOARCH, layers...))
	f.mustPull(b, "app:1", s)
	data := f.mustSave(b, "", "app:1")
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		b.StopTimer()
		g := open(b)
		b.StartTimer()
		g.mustLoad(b, data)
	}
}
