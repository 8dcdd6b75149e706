package sample

import (
	"archive/tar"
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

const (
	vocabulary = 1000 // words that are in use at a time
	fresh      = 6    // one word of so many is a new one
	chunk      = 64 << 10
)

// Content writes bytes like those of programs: words that come again, the first ones most often. Now and then a new
// word takes the place of one, so that looking back further than gzip does helps a little. The same seed gives the same
// bytes.
type Content struct {
	rand  *rand.Rand
	words [vocabulary][]byte
	rest  []byte // written ahead
}

// NewContent begins a stream of bytes.
func NewContent(seed uint64) *Content {
	c := &Content{rand: rand.New(rand.NewPCG(seed, 0))}
	for i := range c.words {
		c.words[i] = c.word()
	}
	return c
}

// word is a new one, of bytes of which some are more frequent than others.
func (c *Content) word() []byte {
	word := make([]byte, 3+c.rand.IntN(14))
	for j := range word {
		u := c.rand.Float64()
		word[j] = byte(256 * u * u)
	}
	return word
}

// Read fills b; it never fails.
func (c *Content) Read(b []byte) (int, error) {
	for n := 0; n < len(b); {
		if len(c.rest) == 0 {
			c.ahead()
		}
		copied := copy(b[n:], c.rest)
		n, c.rest = n+copied, c.rest[copied:]
	}
	return len(b), nil
}

// ahead writes the next bytes.
func (c *Content) ahead() {
	b := make([]byte, 0, chunk+32)
	for len(b) < chunk {
		u := c.rand.Float64()
		i := int(u * u * u * vocabulary)
		if c.rand.IntN(fresh) == 0 {
			c.words[i] = c.word()
		}
		b = append(b, c.words[i]...)
	}
	c.rest = b
}

// written is when all files were, so that archives have the same bytes each time.
var written = time.Unix(1_600_000_000, 0)

// Programs are files of many sizes, most of them small, of so many bytes in all, in folders of folder.
func Programs(seed uint64, folder string, total int64) func(*tar.Writer) error {
	return func(w *tar.Writer) error {
		c := NewContent(seed)
		for n := 0; total > 0; n++ {
			size := int64(1<<10 + c.rand.IntN(7<<10))
			switch p := c.rand.IntN(100); {
			case p < 5:
				size = int64(128<<10 + c.rand.IntN(4<<20))
			case p < 30:
				size = int64(8<<10 + c.rand.IntN(120<<10))
			}
			size = min(size, total)
			total -= size
			if err := c.file(w, folder, n, size); err != nil {
				return err
			}
		}
		return nil
	}
}

// Small are so many files, each below 3 KiB, in folders of folder.
func Small(seed uint64, folder string, count int) func(*tar.Writer) error {
	return func(w *tar.Writer) error {
		c := NewContent(seed)
		for n := range count {
			if err := c.file(w, folder, n, int64(100+c.rand.IntN(2900))); err != nil {
				return err
			}
		}
		return nil
	}
}

const inFolder = 40 // files

// file writes the n-th file, and its folder before the first of it.
func (c *Content) file(w *tar.Writer, folder string, n int, size int64) error {
	place := fmt.Sprintf("%s/%04d", folder, n/inFolder)
	if n == 0 {
		if err := directory(w, folder); err != nil {
			return err
		}
	}
	if n%inFolder == 0 {
		if err := directory(w, place); err != nil {
			return err
		}
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("%s/%02d", place, n%inFolder), Size: size, Mode: 0o755,
		ModTime: written}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.CopyN(w, c, size)
	return err
}

func directory(w *tar.Writer, name string) error {
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: written})
}

// Tree are the entries of an archive: a root filesystem.
func Tree(archive io.Reader) func(*tar.Writer) error {
	return func(w *tar.Writer) error {
		r := tar.NewReader(archive)
		for {
			h, err := r.Next()
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			if err := w.WriteHeader(h); err != nil {
				return err
			}
			if _, err := io.Copy(w, r); err != nil {
				return err
			}
		}
	}
}
