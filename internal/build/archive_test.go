package build

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func archived(t *testing.T, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: files[i], Size: int64(len(files[i+1])), Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func packed(t *testing.T, by func(io.Writer) (io.WriteCloser, error), data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := by(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestDockerfilesInArchives(t *testing.T) {
	long := "FROM bb\n" + strings.Repeat("# a comment that makes it longer than a block\n", 100)
	plain := archived(t, "other", "x", "./Dockerfile", "FROM bb\n", "app/Dockerfile", "FROM base\n")
	zipped := packed(t, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }, plain)
	zst := packed(t, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }, plain)
	for _, c := range []struct {
		data       []byte
		name, want string
	}{
		{plain, "Dockerfile", "FROM bb\n"}, {zipped, "Dockerfile", "FROM bb\n"}, {zst, "Dockerfile", "FROM bb\n"},
		{plain, "app/Dockerfile", "FROM base\n"}, {plain, "../app/Dockerfile", "FROM base\n"}, {plain, "nosuch", ""},
		{[]byte("FROM bb\n"), "Dockerfile", "FROM bb\n"}, {[]byte(long), "Dockerfile", long},
		{archived(t, "Dockerfile", strings.Repeat("#", maxDockerfile+1)), "Dockerfile", ""},
		{nil, "Dockerfile", ""}, {zipped[:20], "Dockerfile", ""}, {plain[:700], "Dockerfile", ""},
	} {
		if got := string(dockerfileIn(bytes.NewReader(c.data), c.name)); got != c.want {
			t.Errorf("%s in %d bytes: %.40q, want %.40q", c.name, len(c.data), got, c.want)
		}
	}
}

func TestSpool(t *testing.T) {
	c := &Config{In: bytes.NewReader(archived(t, "Dockerfile", "FROM bb\n"))}
	in, err := c.spool()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	all, err := io.ReadAll(in)
	if err != nil || !bytes.Equal(all, archived(t, "Dockerfile", "FROM bb\n")) || string(c.dockerfile) != "FROM bb\n" {
		t.Errorf("%d bytes, %v, %q", len(all), err, c.dockerfile)
	}
}
