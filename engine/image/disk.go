package image

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/cnm"
)

func withDirectory(dir, what string, do func(fd int) error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := do(int(d.Fd())); err != nil {
		return fmt.Errorf("%s %s: %w", what, dir, err)
	}
	return nil
}

// makeRoom is what to do about a filesystem that is full.
const makeRoom = "see what takes it with 'net system df', and free it with 'net image prune', 'net rmi IMAGE', " +
	"'net rm CONTAINER' or 'net volume prune', or start netd with --root on a larger filesystem"

// diskError says what to do about a filesystem that takes no more.
func diskError(root string, err error) error {
	if told, ok := errors.AsType[*cnm.Error](err); ok && told.Remedy == makeRoom {
		return err
	}
	switch {
	case errors.Is(err, unix.ENOSPC):
		return &cnm.Error{
			Kind: cnm.ErrExhausted, Cause: err, Remedy: makeRoom,
			Reason: fmt.Sprintf("the filesystem that holds %s has no %s", root, lacking(root)),
		}
	case errors.Is(err, unix.EDQUOT):
		return &cnm.Error{Kind: cnm.ErrExhausted, Cause: err, Reason: "the disk quota for " + root + " is used up",
			Remedy: "raise it, or free space with 'net rmi IMAGE'"}
	case errors.Is(err, unix.EROFS):
		return &cnm.Error{Kind: cnm.ErrForbidden, Cause: err, Reason: root + " is on a read-only filesystem",
			Remedy: "start netd with --root on a writable one"}
	}
	return err
}

// space is how much an archive may come to, decompressed. Its content has to fit the filesystem; that bounds too how
// long one is read that decompresses to more and more of what is not kept.
// A part of the filesystem is left for what netd has to write meanwhile, its records above all.
type space struct {
	root        string
	mu          sync.Mutex
	left, limit int64 // bytes
	free        int64 // bytes, at the beginning
	reserve     int64 // bytes that stay free
	unchecked   int64 // bytes since the last look at what is free
	chunks      spare[[]byte]
	decoders    decoders
}

// maxReserve is the most that is left free, in bytes; of a small filesystem it is a twentieth.
const maxReserve = 256 << 20

// checkEvery is how much is taken between two looks at the filesystem, in bytes.
const checkEvery = 1 << 20

// spaceSlack is what a tar may have besides content that is kept, headers above all, in bytes.
const spaceSlack = 1 << 30

func (c *content) space() *space {
	// The bounds are those where the filesystem does not tell.
	s := &space{root: c.root, decoders: newDecoders(c.wide), limit: 1 << 40, free: 1 << 40}
	var st unix.Statfs_t
	if err := unix.Statfs(c.root, &st); err == nil {
		s.free = int64(st.Bavail) * st.Bsize
		s.limit = s.free + s.free/4 + spaceSlack
		s.reserve = min(maxReserve, int64(st.Blocks)*st.Bsize/20)
	}
	s.left = s.limit
	return s
}

// fits refuses an image whose blobs alone are more than there is room for, before any of it is fetched.
func (c *content) fits(layers []source) error {
	s := c.space()
	var missing int64
	for _, l := range layers {
		if c.hasBlob(l.blob.Digest, l.blob.Size) {
			continue
		}
		if missing += l.blob.Size; missing < 0 || missing > s.free-s.reserve {
			return &cnm.Error{Kind: cnm.ErrExhausted,
				Reason: fmt.Sprintf("the filesystem that holds %s has no room for it: %d MiB are free, of which the "+
					"last %d MiB are left for netd's records, and its layers have more, compressed", s.root,
					s.free>>20, s.reserve>>20),
				Remedy: makeRoom}
		}
	}
	return nil
}

// memory is how much was taken of it for what is read ahead and decompressed, in bytes.
func (s *space) memory() int64 {
	return s.chunks.made()*chunkSize + s.decoders.usual.made()*usualWindow
}

// take is called for what was read.
func (s *space) take(n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left -= int64(n); s.left >= 0 {
		return s.check(n)
	}
	return &cnm.Error{Kind: cnm.ErrExhausted,
		Reason: fmt.Sprintf("it decompresses to more than %d MiB, for which there is no space", s.limit>>20),
		Remedy: makeRoom}
}

// check looks whether the reserve is untouched.
func (s *space) check(n int) error {
	if s.unchecked += int64(n); s.unchecked < checkEvery {
		return nil
	}
	s.unchecked = 0
	var st unix.Statfs_t
	if err := unix.Statfs(s.root, &st); err != nil || int64(st.Bavail)*st.Bsize >= s.reserve {
		return nil
	}
	return &cnm.Error{Kind: cnm.ErrExhausted,
		Reason: fmt.Sprintf("the filesystem that holds %s has no room for it: the last %d MiB are left for netd's "+
			"records", s.root, s.reserve>>20),
		Remedy: makeRoom}
}

// lacking tells what ran out: bytes or inodes, whichever is the scarcer. Some filesystems count no inodes.
func lacking(dir string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "room for it, and how much is left is unknown: " + err.Error()
	}
	what := "space left for it"
	if st.Files > 0 && float64(st.Ffree)/float64(st.Files) < float64(st.Bavail)/float64(st.Blocks) {
		what = "inodes left for it"
	}
	return fmt.Sprintf("%s (%d MiB and %d inodes left)", what, st.Bavail*uint64(st.Bsize)>>20, st.Ffree)
}
