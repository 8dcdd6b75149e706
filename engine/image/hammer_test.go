package image_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"
)

// Whatever is brought in, saved, removed and collected at the same time: what an operation works with is not removed
// under it, what has a name and was brought in is whole, and nothing is left in the end.
func TestCollectionRacesWithAll(t *testing.T) {
	f := open(t)
	s := newShelf()
	s.put(t, "1", build(t, runtime.GOARCH, base, mid))
	s.put(t, "2", build(t, runtime.GOARCH, base, files{{"big", string(randomBytes(200 << 10))}}))
	f.mustPull(t, "app:2", s)
	archive := f.mustSave(t, "", "app:2")
	tarball := base.tar(t)
	always := func(int64) int64 { return math.MaxInt64 }
	const rounds = 40
	g, ctx := errgroup.WithContext(t.Context())
	again := func(what string, do func(ctx context.Context, n int) error) {
		g.Go(func() error {
			for n := range rounds {
				if err := do(ctx, n); err != nil && !errors.Is(err, cnm.ErrNotFound) {
					return fmt.Errorf("%s, round %d: %w", what, n, err)
				}
			}
			return nil
		})
	}
	again("pull", func(ctx context.Context, n int) error {
		p, err := f.Pull(ctx, fmt.Sprintf("app:%d", n%2+1), s, image.PullOptions{})
		if err != nil {
			return fmt.Errorf("%w: %w", errHammer, err)
		}
		return f.Save(ctx, io.Discard, []string{p.ID}, image.SaveOptions{})
	})
	again("load", func(ctx context.Context, _ int) error {
		_, err := f.Load(ctx, bytes.NewReader(archive))
		return err
	})
	again("import", func(ctx context.Context, _ int) error {
		_, err := f.Import(ctx, bytes.NewReader(tarball), image.ImportOptions{Reference: "mine"})
		return err
	})
	again("save", func(ctx context.Context, n int) error {
		return f.Save(ctx, io.Discard, []string{"app:2"}, image.SaveOptions{
			Format: []string{"", "docker-archive"}[n%2]})
	})
	again("remove", func(ctx context.Context, n int) error {
		_, _, err := f.Remove(ctx, fmt.Sprintf("app:%d", n%2+1), true, nil)
		return err
	})
	again("reclaim", func(ctx context.Context, _ int) error {
		_, err := f.Reclaim(ctx, always, true, nil)
		return err
	})
	again("measure and check", func(ctx context.Context, _ int) error {
		if _, err := f.DiskUsage(ctx); err != nil {
			return err
		}
		_, err := f.Check(ctx, image.CheckOptions{Found: func(d image.Damage) error {
			return fmt.Errorf("%w: %+v", errHammer, d)
		}})
		return err
	})
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	f.mustPull(t, "app:1", s)
	if found := f.check(t, false); len(found) > 0 {
		t.Errorf("found %+v", found)
	}
	if _, err := f.Prune(t.Context(), true, nil, nil); err != nil {
		t.Fatal(err)
	}
	f.empty(t)
	if left := f.blobs(t); len(left) > 0 {
		t.Errorf("blobs are left: %v", left)
	}
}

var errHammer = errors.New("broken meanwhile")
