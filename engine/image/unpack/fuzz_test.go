package unpack_test

import (
	"archive/tar"
	"bytes"
	"testing"

	"github.com/vethloom/vethloom/engine/image/unpack"
)

// Whatever the archive, nothing outside changes and nothing panics.
func FuzzUnpack(f *testing.F) {
	for _, entries := range [][]entry{
		{dir("a"), file("a/b", "c"), link("d", "a/b"), symlink("e", "a"), file("e/f", "g")},
		{symlink("out", ".."), file("out/canary", "x"), symlink("abs", "/"), file("abs/x", "x")},
		{file(".wh.a", ""), dir("a"), file("a/.wh..wh..opq", ""), device("n", tar.TypeChar, 0, 0)},
		{symlink("a", "b"), symlink("b", "a"), file("a/f", ""), link("a", "b")},
		{symlink("l", "../in/d"), dir("l/x"), file("l/x/y", "z"), file("../canary", "")},
	} {
		f.Add(archive(f, entries...), true)
		f.Add(archive(f, entries...), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, asLayer bool) {
		outside, in := sandbox(t)
		res, err := unpack.Unpack(t.Context(), in, bytes.NewReader(data), unpack.Options{Layer: asLayer})
		untouched(t, outside)
		if err == nil && res.Size < 0 {
			t.Errorf("size = %d", res.Size)
		}
	})
}

// Paths are made of few names, so that links and entries meet.
func FuzzUnpackPaths(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11})
	f.Add([]byte("symlinks to parents, files through them"))
	names := []string{"a", "b", "a/b", "b/a", "a/b/c", ".", "a/b/c/d", "b/canary", "a/canary", ".wh.a",
		"a/.wh..wh..opq", "b/.wh.c"}
	targets := []string{"..", "/", "a", "b", "../..", "/a/../..", "a/b", "../canary", "/proc/self/cwd", ".", "c",
		"../in"}
	f.Fuzz(func(t *testing.T, program []byte) {
		var entries []entry
		for len(program) >= 3 && len(entries) < 64 {
			name, target := names[int(program[1])%len(names)], targets[int(program[2])%len(targets)]
			switch program[0] % 4 {
			case 0:
				entries = append(entries, file(name, "x"))
			case 1:
				entries = append(entries, dir(name))
			case 2:
				entries = append(entries, symlink(name, target))
			case 3:
				entries = append(entries, link(name, target))
			}
			program = program[3:]
		}
		outside, in := sandbox(t)
		_, err := unpack.Unpack(t.Context(), in, bytes.NewReader(archive(t, entries...)), unpack.Options{Layer: true})
		untouched(t, outside)
		if err != nil && err.Error() == "" {
			t.Error("an error without a text")
		}
	})
}
