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
// the filesystem. What no image has goes first, then images without a name that were not asked for by digest and that
// no container needs, and last, with leftovers, what pulls that broke off a short time ago could go on from. It ends as
// soon as enough is free.
func (s *Store) Reclaim(ctx context.Context, mark func(total int64) int64, leftovers bool,
	inUse func(imageID string) []string) (r Reclaimed, err error) {
	steps := []func() (int64, error){
		func() (int64, error) { return s.sweep(ctx, false) },
		func() (int64, error) {
			p, err := s.prune(ctx, false, false, nil, inUse)
			r.Deleted = p.Deleted
			return p.Freed, err
		},
	}
	if leftovers {
		steps = append(steps, func() (int64, error) { return s.sweep(ctx, true) })
	}
	for _, step := range steps {
		if low, err := s.low(mark); err != nil || !low {
			return r, err
		}
		freed, err := step()
		if r.Freed += freed; err != nil {
			return r, err
		}
	}
	return r, nil
}

// low reports whether less space is free than a mark.
func (s *Store) low(mark func(total int64) int64) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.content.root, &st); err != nil {
		return false, fmt.Errorf("look at the free space of %s: %w", s.content.root, err)
	}
	return int64(st.Bavail)*st.Bsize < mark(int64(st.Blocks)*st.Bsize), nil
}
