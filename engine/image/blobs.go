package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/cnm"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// digestOf is the SHA-256 digest of a document.
func digestOf(raw []byte) v1.Hash {
	sum := sha256.Sum256(raw)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// CorruptError says that a blob is not what its digest says, or is gone. It is a [cnm.ErrUnavailable].
type CorruptError struct {
	Digest string
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("blob %s %s; pull or load its image again, and 'net system check' tells which images those are",
		e.Digest, e.Reason)
}

// Is makes the error match [cnm.ErrUnavailable].
func (e *CorruptError) Is(target error) bool { return target == cnm.ErrUnavailable }

// openBlob opens a blob for reading, without following a link.
func (c *content) openBlob(h v1.Hash) (*os.File, int64, error) {
	f, err := os.OpenFile(c.blob(h), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, &CorruptError{Digest: h.String(), Reason: "is not there"}
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open blob %s: %w", h, err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = &CorruptError{Digest: h.String(), Reason: "is no regular file"}
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, st.Size(), nil
}

// readBlob reads a small blob, a manifest or a configuration, and compares it with its digest.
func (c *content) readBlob(h v1.Hash) ([]byte, error) {
	f, size, err := c.openBlob(h)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > maxDocument {
		return nil, &CorruptError{Digest: h.String(),
			Reason: fmt.Sprintf("has %d bytes, too many for a manifest", size)}
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("read blob %s: %w", h, err)
	}
	if digestOf(raw) != h {
		return nil, &CorruptError{Digest: h.String(), Reason: "has changed since it was written"}
	}
	return raw, nil
}

// summer writes a blob that is being made, and digests it.
type summer struct {
	w    io.Writer
	sum  hash.Hash
	n    int64
	room *space
}

func newSummer(w io.Writer, room *space) *summer { return &summer{w: w, sum: sha256.New(), room: room} }

// Write implements [io.Writer].
func (s *summer) Write(p []byte) (int, error) {
	if err := s.room.take(len(p)); err != nil {
		return 0, err
	}
	n, err := s.w.Write(p)
	s.sum.Write(p[:n])
	s.n += int64(n)
	if err != nil {
		err = diskError(s.room.root, err)
	}
	return n, err
}

func (s *summer) digest() v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(s.sum.Sum(nil))}
}

// stageBlob writes a small blob to the temporary directory.
func (c *content) stageBlob(raw []byte) (file string, err error) {
	f, err := c.makeFile(c.tmp(), "blob-")
	if err != nil {
		return "", diskError(c.root, err)
	}
	_, err = io.Copy(f, bytes.NewReader(raw))
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(diskError(c.root, err), os.Remove(f.Name()))
	}
	return f.Name(), nil
}
