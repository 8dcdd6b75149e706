package image_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"
)

// withDictionary is a stream of xz whose only block asks for a dictionary (the .xz file format, 3.1 and 5.3.1). Size is
// (2 + code%2) << (code/2 + 11).
func withDictionary(t *testing.T, data []byte, code byte) []byte {
	t.Helper()
	out := run(t, data, "xz", "-0", "-T1", "-c")
	head := out[12:24] // size, flags, the filter's ID and size, the dictionary, three bytes of padding, CRC32
	if !bytes.Equal(head[:4], []byte{2, 0, 0x21, 1}) {
		t.Fatalf("the header of the block is %x", head)
	}
	head[4] = code
	binary.LittleEndian.PutUint32(head[8:], crc32.ChecksumIEEE(head[:8]))
	return out
}

// A dictionary is refused by its size before there is memory for it, in whichever block and stream it is.
func TestDictionariesOfXz(t *testing.T) {
	plain := rootfs(t)
	half := len(plain) / 2
	for name, c := range map[string]struct {
		data    []byte
		refused bool
	}{
		"64 MiB": {withDictionary(t, plain, 28), false},
		"96 MiB": {withDictionary(t, plain, 29), true},
		"4 GiB":  {withDictionary(t, plain, 40), true},
		"64 MiB in a second stream": {append(run(t, plain[:half], "xz", "-0"), withDictionary(t, plain[half:], 28)...),
			false},
		"3 GiB in a second stream": {append(run(t, plain[:half], "xz", "-0"), withDictionary(t, plain[half:], 39)...),
			true},
		"no size that there is":      {withDictionary(t, plain, 41), true},
		"blocks by several threads":  {run(t, plain, "xz", "-0", "-T2", "--block-size=300KiB", "-c"), false},
		"with a filter for machines": {run(t, plain, "xz", "--x86", "--lzma2=preset=0", "-c"), false},
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t)
			_, err := f.Import(t.Context(), bytes.NewReader(c.data), image.ImportOptions{})
			if !c.refused {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, cnm.ErrInvalid) || !strings.Contains(err.Error(), "the xz data ") {
				t.Errorf("import: %v", err)
			}
			f.empty(t)
			if _, err := f.Load(t.Context(), bytes.NewReader(c.data)); !errors.Is(err, cnm.ErrInvalid) ||
				!strings.Contains(err.Error(), "the xz data ") {
				t.Errorf("load: %v", err)
			}
			f.empty(t)
		})
	}
	_, err := open(t).Import(t.Context(), bytes.NewReader(withDictionary(t, plain, 29)), image.ImportOptions{})
	if want := "needs a dictionary of more than 64 MiB, which is the limit; compress the archive again"; err == nil ||
		!strings.Contains(err.Error(), want) {
		t.Errorf("got %v", err)
	}
}
