package image

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// Reclaimed are what was removed to have free space.
type Reclaimed struct {
	Deleted []string // images
	Freed   int64    // bytes, as they were allocated on the disk
}

// Reclaim frees space when less than a mark is left on the filesystem of images, in bytes; mark is given the size of
// the filesystem. What no image has and what is left of broken pulls goes first, then images without a name that were
// not asked for by digest and that no container needs. It ends as soon as enough is free.
func (s *Store) Reclaim(ctx context.Context, mark func(total int64) int64, inUse func(imageID string) []string) (
	r Reclaimed, err error) {
	low, err := s.low(mark)
	if err != nil || !low {
		return r, err
	}
	if r.Freed, err = s.sweep(ctx, true); err != nil {
		return r, err
	}
	if low, err = s.low(mark); err != nil || !low {
		return r, err
	}
	p, err := s.Prune(ctx, false, nil, inUse)
	r.Deleted = p.Deleted
	r.Freed += p.Freed
	return r, err
}

// low reports whether less space is free than a mark.
func (s *Store) low(mark func(total int64) int64) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.content.root, &st); err != nil {
		return false, fmt.Errorf("look at the free space of %s: %w", s.content.root, err)
	}
	return int64(st.Bavail)*st.Bsize < mark(int64(st.Blocks)*st.Bsize), nil
}
