package pack_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/image/pack"
	"github.com/vethloom/vethloom/engine/image/unpack"
	"github.com/vethloom/vethloom/engine/rootfile"
	"github.com/vethloom/vethloom/engine/snapshot"
	"github.com/vethloom/vethloom/internal/soak"
)

// nest makes directories in one another, with a file in the last.
func nest(t *testing.T, dir string, depth int) {
	t.Helper()
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	for range depth {
		must(t, unix.Mkdirat(at, "d", 0o755))
		next, err := unix.Openat(at, "d", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err)
		must(t, unix.Close(at))
		at = next
	}
	must(t, unix.Mknodat(at, "file", unix.S_IFREG|0o600, 0))
	must(t, unix.Close(at))
}

// A hundred thousand files in three hundred layers, and five thousand directories in one another: a part of them each
// time, all under make soak.
func TestLargeTree(t *testing.T) {
	part := soak.Stride(25)
	layers, files, depth := 300/part, 100_000/part, 5000/part
	top := t.TempDir()
	defer func() { must(t, rootfile.RemoveTree(filepath.Join(top, "all"))) }() // the test's own way is of no such depth
	all := mkdir(t, top, "all")
	var lowers []string
	for i := range layers {
		dir := mkdir(t, all, fmt.Sprint("layer", i))
		for d := range 10 {
			sub := mkdir(t, dir, fmt.Sprint("dir", d))
			for f := range files / layers / 10 {
				must(t, os.WriteFile(fmt.Sprintf("%s/%d-%d", sub, i, f), []byte("x"), 0o600))
			}
		}
		lowers = append(lowers, dir)
	}
	files = files / layers / 10 * 10 * layers
	upper := mkdir(t, all, "upper")
	nest(t, upper, depth)

	var b bytes.Buffer
	stats, err := pack.Layer(t.Context(), upper, lowers, &b, pack.Options{})
	must(t, err)
	if stats.Entries != depth+1 {
		t.Errorf("the layer has %d entries, want %d", stats.Entries, depth+1)
	}
	layer := mkdir(t, all, "new")
	res, err := unpack.Unpack(t.Context(), layer, &b, unpack.Options{Layer: true})
	must(t, err)
	if res.Entries != depth+1 || !res.Needs.Empty() {
		t.Errorf("unpacked: %d entries", res.Entries)
	}
	merged, err := snapshot.OpenMerged(append(lowers, layer))
	must(t, err)
	defer func() { must(t, merged.Close()) }()
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		_, err := pack.Tree(t.Context(), merged.File, w, pack.Options{})
		packed <- err
		must(t, w.CloseWithError(err))
	}()
	start := time.Now()
	res, err = unpack.Unpack(t.Context(), mkdir(t, all, "tree"), r, unpack.Options{})
	must(t, err)
	must(t, <-packed)
	if want := 1 + 10 + files + depth + 1; res.Entries != want {
		t.Errorf("the tree has %d entries, want %d", res.Entries, want)
	}
	t.Logf("%d entries of %d layers packed and unpacked in %v", res.Entries, layers, time.Since(start))
}
