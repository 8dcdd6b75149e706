package daemon

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/engine/image"
)

// defaultLowSpace is 10% of the filesystem, and 10 GiB of a large one.
const defaultLowSpace = "10%,10GiB"

// lowSpace reads the value of --image-low-space: bytes with a suffix or a percentage of the filesystem; of several,
// with commas between them, the least counts; "" is the default. It returns the mark of a filesystem by its size, in
// bytes.
func lowSpace(text string) (func(total int64) int64, error) {
	var percent, bytes = math.Inf(1), math.Inf(1)
	for part := range strings.SplitSeq(cmp.Or(text, defaultLowSpace), ",") {
		digits := strings.TrimRight(part, "%BKMGTi")
		unit := map[string]float64{"%": 0.01, "": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40,
			"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "KB": 1e3, "MB": 1e6, "GB": 1e9,
			"TB": 1e12}[part[len(digits):]]
		n, err := strconv.ParseFloat(digits, 64)
		if err != nil || unit == 0 || n < 0 || math.IsInf(n, 0) || math.IsNaN(n) || unit == 0.01 && n > 100 {
			return nil, fmt.Errorf("--image-low-space %q: %q is no amount: give bytes (10GiB), a percentage of the "+
				"filesystem (10%%), both with a comma between, of which the less counts, or 0 for never", text, part)
		}
		if unit == 0.01 {
			percent = min(percent, n*unit)
		} else {
			bytes = min(bytes, n*unit)
		}
	}
	return func(total int64) int64 {
		share := float64(total)
		if !math.IsInf(percent, 1) {
			share *= percent
		}
		return int64(min(share, bytes))
	}, nil
}

func checkLowSpace(text string) error {
	_, err := lowSpace(text)
	return err
}

// collector frees space where little is left.
type collector struct{ *daemon }

// run looks at the free space until the context ends.
func (c collector) run(ctx context.Context) error {
	tick := time.NewTicker(cmp.Or(c.cfg.CollectEvery, time.Minute))
	defer tick.Stop()
	for {
		if err := c.collect(ctx, true); err != nil && ctx.Err() == nil {
			c.log.Warn("cannot free space", "err", err) // the next time may do better
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// collect frees space when little is left; with leftovers, also of pulls that broke off a short time ago.
func (c collector) collect(ctx context.Context, leftovers bool) error {
	mark, err := lowSpace(c.cfg.ImageLowSpace)
	if err != nil {
		return err
	}
	r, err := c.images.Reclaim(ctx, mark, leftovers, c.engine.ImageUsers)
	for _, id := range r.Deleted {
		c.events.emit(server.Event{Type: "image", Action: "remove", ID: id})
	}
	if r.Freed > 0 || len(r.Deleted) > 0 {
		c.log.Info("freed space, as little was left for images", "bytes", r.Freed, "images", len(r.Deleted))
		c.events.emit(server.Event{Type: "image", Action: "collect",
			Attributes: map[string]string{"bytes": strconv.FormatInt(r.Freed, 10)}})
	}
	return err
}

// before frees space before images come in. What a pull could go on from stays: it would only be fetched again. That
// space cannot be freed is no reason to refuse images: there may be enough.
func (i images) before(ctx context.Context, report func(image.Progress)) {
	if err := (collector{i.daemon}).collect(ctx, false); err != nil && report != nil {
		report(image.Progress{Action: image.ActionWaiting, Text: "cannot free space: " + err.Error()})
	}
}
