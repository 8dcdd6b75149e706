package single

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	goruntime "runtime"
	"testing"
)

// manyLayers is an archive of an image with a root filesystem and as many layers above it that each replace a file.
func manyLayers(t *testing.T, n int) string {
	t.Helper()
	base, err := os.ReadFile(rootfs(t))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(name string, body []byte) string {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(body)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
		return name
	}
	names := []string{put("0.tar", base)}
	diffIDs := []string{fmt.Sprintf("sha256:%x", sha256.Sum256(base))}
	for i := 1; i <= n; i++ {
		// Each names itself in a file that all of them replace.
		layer := []byte(archiveOf(t, "which", fmt.Sprint(i)))
		names = append(names, put(fmt.Sprintf("%d.tar", i), layer))
		diffIDs = append(diffIDs, fmt.Sprintf("sha256:%x", sha256.Sum256(layer)))
	}
	for name, v := range map[string]any{
		"config.json": map[string]any{"architecture": goruntime.GOARCH, "os": "linux",
			"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs}},
		"manifest.json": []any{map[string]any{"Config": "config.json", "RepoTags": []string{"many:1"},
			"Layers": names}},
	} {
		body, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		put(name, body)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// archiveOf is a tar of one file.
func archiveOf(t *testing.T, name, body string) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(body)), Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(body)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// More layers than the options of mount(2) have room for.
func TestManyLayers(t *testing.T) {
	n := newNode(t)
	matches(t, "load", n.pipe(manyLayers(t, 299), "load").out, `many:1`)
	is(t, "run", n.ok("run", "--rm", "many:1", "cat", "/which"), "299")
	is(t, "with user IDs of its own", n.ok("run", "--rm", "--userns", "auto", "many:1", "sh", "-c",
		"cat /which; echo; stat -c %u /which; echo more > /which; cat /which"), "299\n0\nmore")
}
