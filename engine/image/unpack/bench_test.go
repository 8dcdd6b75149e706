package unpack_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/vethloom/vethloom/engine/image/unpack"
)

// small is an archive of many small files, as node_modules are.
func small(tb testing.TB, files int) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(h *tar.Header, body []byte) {
		h.ModTime, h.Mode, h.Size = time.Unix(1e9, 0), 0o755, int64(len(body))
		if err := w.WriteHeader(h); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			tb.Fatal(err)
		}
	}
	body := bytes.Repeat([]byte("some text "), 100)
	for i := range files {
		if i%20 == 0 {
			put(&tar.Header{Name: fmt.Sprintf("usr/lib/node_modules/%d/", i/20), Typeflag: tar.TypeDir}, nil)
		}
		put(&tar.Header{Name: fmt.Sprintf("usr/lib/node_modules/%d/%d.js", i/20, i), Typeflag: tar.TypeReg}, body)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// BenchmarkUnpackSmallFiles compares with tar, in one run.
func BenchmarkUnpackSmallFiles(b *testing.B) {
	data := small(b, 100_000)
	top := b.TempDir()
	var ours, theirs time.Duration
	for b.Loop() {
		for who, f := range []func(dir string) error{
			func(dir string) error {
				_, err := unpack.Unpack(b.Context(), dir, bytes.NewReader(data), unpack.Options{})
				return err
			},
			func(dir string) error {
				cmd := exec.Command("tar", "-C", dir, "-x", "-p", "--same-owner", "--numeric-owner")
				cmd.Stdin = bytes.NewReader(data)
				return cmd.Run()
			},
		} {
			dir := filepath.Join(top, fmt.Sprint(who))
			if err := os.Mkdir(dir, 0o755); err != nil {
				b.Fatal(err)
			}
			start := time.Now()
			if err := f(dir); err != nil {
				b.Fatal(err)
			}
			took := time.Since(start)
			if who == 0 {
				ours += took
			} else {
				theirs += took
			}
			if err := os.RemoveAll(dir); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(ours.Seconds()/theirs.Seconds(), "x-tar")
	b.ReportMetric(ours.Seconds()/float64(b.N), "s/unpack")
}
