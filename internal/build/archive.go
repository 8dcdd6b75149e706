package build

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/klauspost/compress/zstd"
)

// maxScanned bounds how much of an archive is looked through for its Dockerfile, in bytes, unpacked.
const maxScanned = 8 << 30

// spool keeps what comes as the context in a file without a name, so that its Dockerfile can be read before buildkitd
// gets all of it.
func (c *Config) spool() (_ io.ReadCloser, err error) {
	f, err := os.CreateTemp("", "net-build-")
	if err != nil {
		return nil, fmt.Errorf("keep the context: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := os.Remove(f.Name()); err != nil {
		return nil, fmt.Errorf("keep the context: %w", err)
	}
	if _, err := io.Copy(f, c.In); err != nil {
		return nil, fmt.Errorf("read the context: %w", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("keep the context: %w", err)
	}
	name := c.File
	if name == "" {
		name = dockerfile
	}
	c.dockerfile = dockerfileIn(f, name)
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("keep the context: %w", err)
	}
	return f, nil
}

// dockerfileIn reads a Dockerfile out of an archive, or one that comes alone. What it does not find, or cannot read,
// buildkitd tells about.
func dockerfileIn(r io.Reader, name string) []byte {
	plain, err := unpacked(bufio.NewReader(r))
	if err != nil {
		return nil
	}
	head := bufio.NewReaderSize(io.LimitReader(plain, maxScanned), 64<<10)
	archive := tar.NewReader(head)
	start, _ := head.Peek(blockSize) // less of a short one
	start = bytes.Clone(start)
	h, err := archive.Next()
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
		return whole(io.MultiReader(bytes.NewReader(start), head))
	}
	for ; err == nil; h, err = archive.Next() {
		if path.Clean("/"+h.Name) == path.Clean("/"+name) && h.Typeflag == tar.TypeReg {
			return whole(archive)
		}
	}
	return nil
}

// blockSize is that of a tar's blocks: what is no tar has been read as far as one of them.
const blockSize = 512

// whole is the text of a Dockerfile, or nothing of one that is too long.
func whole(r io.Reader) []byte {
	text, err := io.ReadAll(io.LimitReader(r, maxDockerfile+1))
	if err != nil || len(text) > maxDockerfile {
		return nil
	}
	return text
}

// unpacked is an archive as it was before it was compressed.
func unpacked(r *bufio.Reader) (io.Reader, error) {
	magic, _ := r.Peek(4) // fewer of a short one
	switch {
	case bytes.HasPrefix(magic, []byte("\x1f\x8b")):
		return gzip.NewReader(r)
	case bytes.HasPrefix(magic, []byte("BZh")):
		return bzip2.NewReader(r), nil
	case bytes.HasPrefix(magic, []byte("\x28\xb5\x2f\xfd")):
		return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(128<<20))
	}
	return r, nil
}
