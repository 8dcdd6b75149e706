package image

import (
	"bytes"
	"io"
	"os/exec"
	"testing"
)

// Whatever is compressed, reading it ends with what it holds or with an error.
func FuzzDecompress(f *testing.F) {
	text := bytes.Repeat([]byte("some text, and some more "), 40)
	for _, args := range [][]string{{"xz", "-0"}, {"xz", "-1", "-T2", "--block-size=100"},
		{"xz", "--x86", "--delta=dist=3", "--lzma2"}, {"xz", "--check=sha256"}, {"xz", "--check=none"}, {"gzip"},
		{"zstd"}, {"bzip2"}} {
		cmd := exec.Command(args[0], append(args[1:], "-c")...)
		cmd.Stdin = bytes.NewReader(text)
		out, err := cmd.Output()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(out)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		all := newDecoders(newWideWindows())
		d, err := decompress(t.Context(), bytes.NewReader(data), &all)
		if err != nil {
			return
		}
		const most = 64 << 20
		if n, err := io.Copy(io.Discard, io.LimitReader(d, most)); n > 0 && n < most && err == nil && len(data) == 0 {
			t.Errorf("%d bytes of nothing", n)
		}
		_ = d.Close() // of what is damaged, that says so again
	})
}
