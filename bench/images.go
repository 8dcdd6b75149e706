package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	oursName = "vethloom"

	// What is expected: of the time of docker's pulls, and of netd's memory in MB.
	pullRatio  = 1.3
	peakMemory = 80

	diskSize = "16G" // of a file with holes

	// turnsBudget bounds the rounds of one job, on average.
	turnsBudget = 4 * time.Minute

	startsARound = 5 // of containers, as one takes little

	// calm is how long engines have to give memory back to the system.
	calm = 10 * time.Second
)

// The charts of the section, by number.
const (
	chartTime = iota
	chartSynced
	chartPeak
	chartCommand
	chartRest
	chartStart
	chartRemove
	chartsInAll
)

// exhibition is one run of the section.
type exhibition struct {
	*gallery
	m       *machine
	engines []*imager
	charts  [chartsInAll]*chart
}

// imagesSection compares what engines do with images.
func imagesSection(ctx context.Context, m *machine, rep *report) error {
	progress("making the images")
	dir, err := m.disk(ctx)
	if err != nil {
		return err
	}
	defer func(dir string) { m.dir = dir }(m.dir)
	m.dir = dir // everything that the daemons keep is on this filesystem
	g, err := newGallery(ctx, m)
	if err != nil {
		return err
	}
	x := &exhibition{gallery: g, m: m}
	if x.engines, err = g.imagers(ctx, m); err != nil {
		return err
	}
	x.engines = slices.DeleteFunc(x.engines, func(im *imager) bool { return !m.cfg.wants(im.name) })
	x.hang()
	for _, part := range []func(context.Context) error{x.transfers, x.starts, x.removals} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	x.expect()
	for _, c := range x.charts {
		c.tidy()
	}
	rep.Images = x.charts[:]
	return nil
}

// disk makes a filesystem in a file. On the machine's own one the contenders would feel each other: an ext4 without a
// journal searches for inodes that were not given back in the last minutes, which takes a multiple of all the rest.
func (m *machine) disk(ctx context.Context) (string, error) {
	file, dir := filepath.Join(m.dir, "disk"), filepath.Join(m.dir, "on-disk")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	for _, line := range [][]string{
		{"truncate", "--size", diskSize, file},
		{"mkfs.ext4", "-q", "-F", "-O", "has_journal", file},
		// Nothing is to be written in the background.
		{"mount", "-o", "loop,noinit_itable", file, dir},
	} {
		if _, err := command(ctx, line[0], line[1:]...); err != nil {
			return "", fmt.Errorf("make a filesystem for the images: %w", err)
		}
	}
	return dir, nil
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: images: "+format+"\n", args...)
}

// hang makes the charts, empty yet.
func (x *exhibition) hang() {
	var transfers, starts []string
	for _, j := range x.jobs() {
		transfers = append(transfers, j.title)
	}
	for _, d := range x.deep {
		starts = append(starts, d.title)
	}
	x.charts = [chartsInAll]*chart{
		chartTime: {Title: fmt.Sprintf("%d MB in %d layers, and small files in one, until the command ends",
			x.m.cfg.imageSize, len(shares)), Unit: "s", Form: "%.2f", Columns: transfers},
		chartSynced:  {Title: "The same, until all is on the disk", Unit: "s", Form: "%.2f", Columns: transfers},
		chartPeak:    {Title: "Peak memory of the daemons", Unit: "MB", Form: "%.0f", Columns: transfers},
		chartCommand: {Title: "Peak memory of the commands", Unit: "MB", Form: "%.0f", Columns: transfers},
		chartRest: {Title: "Memory of the daemons at rest", Unit: "MB", Form: "%.0f",
			Columns: []string{"at first", fmt.Sprintf("%v after all transfers", calm)}},
		chartStart: {Title: "Run `true` without a network, of an image of", Unit: "ms", Form: "%.0f", Columns: starts},
		chartRemove: {Title: fmt.Sprintf("Of %d images at once", manyImages), Unit: "ms", Form: "%.0f",
			Columns: []string{"removal by name", "prune"}},
	}
	for _, c := range x.charts {
		for _, im := range x.engines {
			c.row(im.name, im.name == oursName)
		}
	}
}

// transfer is one column of the transfers.
type transfer struct {
	title, kind string
	do          func(im *imager) func(ctx context.Context) error // nil: the engine has no command for it
	names       []string                                         // to be removed afterwards
	fetched     func() int                                       // layers that were not
}

// jobs are the transfers: pulls, then archives.
func (x *exhibition) jobs() []transfer {
	var all []transfer
	for _, p := range x.pictures {
		all = append(all, transfer{"pull " + p.title, p.kind, func(im *imager) func(context.Context) error {
			return func(ctx context.Context) error { return im.pull(ctx, p.image) }
		}, []string{x.registry.Name(p.image)}, func() int { return x.registry.Missed(p.image) }})
	}
	for _, p := range x.pictures {
		if p.archive == "" {
			continue
		}
		all = append(all, transfer{"load " + p.title, p.kind, func(im *imager) func(context.Context) error {
			if im.load == nil {
				return nil
			}
			return func(ctx context.Context) error { return im.load(ctx, p.archive) }
		}, []string{inArchive(p.image)}, nil})
	}
	return all
}

// turns has the engines do something in turns, a number of rounds. One that cannot is left out of what follows. A slow
// machine has fewer rounds.
func (x *exhibition) turns(rounds int, do func(i int, im *imager) (refused bool, err error)) error {
	left := map[int]bool{}
	start := time.Now()
	for round := range rounds {
		if spent := time.Since(start); round > 0 && spent+spent/time.Duration(round) > turnsBudget {
			progress("ended after %d of %d rounds: the time was over", round, rounds)
			break
		}
		for i := range x.engines {
			i = (i + round) % len(x.engines)
			if left[i] {
				continue
			}
			refused, err := do(i, x.engines[i])
			if err != nil {
				return fmt.Errorf("%s: %w", x.engines[i].name, err)
			}
			left[i] = refused
		}
	}
	return nil
}

// transfers measures pulls and loads.
func (x *exhibition) transfers(ctx context.Context) error {
	if err := x.atRest(0); err != nil {
		return err
	}
	if err := x.warmUp(ctx); err != nil {
		return err
	}
	for column, j := range x.jobs() {
		progress("%s", j.title)
		err := x.turns(x.m.cfg.imageRounds, func(i int, im *imager) (bool, error) {
			do := j.do(im)
			if do == nil {
				return true, nil
			}
			return x.transfer(ctx, j, do, column, i)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", j.title, err)
		}
	}
	if err := wait(ctx, calm); err != nil {
		return err
	}
	return x.atRest(1)
}

// warmUp has each engine pull once: its first pull, and the first writing to a new filesystem, are not like others.
func (x *exhibition) warmUp(ctx context.Context) error {
	progress("first pulls")
	return x.turns(1, func(_ int, im *imager) (bool, error) {
		first := x.pictures[0].image
		if err := im.pull(ctx, first); err != nil {
			return false, err
		}
		return false, im.remove(ctx, x.registry.Name(first))
	})
}

// transfer measures one of one engine, and removes what it has brought in.
func (x *exhibition) transfer(ctx context.Context, j transfer, do func(context.Context) error, column, engine int) (
	refused bool, err error) {
	im := x.engines[engine]
	if err := errors.Join(x.settle(), im.forget()); err != nil {
		return false, err
	}
	if j.fetched != nil {
		j.fetched() // what others fetched is forgotten
	}
	start := time.Now()
	err = do(ctx)
	took := time.Since(start)
	if err != nil {
		reason := im.refusal(j.kind, err)
		for _, c := range []int{chartTime, chartSynced, chartPeak, chartCommand} {
			x.charts[c].Rows[engine].Cells[column].Why = reason
		}
		if reason == "" {
			return false, err
		}
		progress("%s: %s: %v", im.name, reason, err)
		return true, nil
	}
	if err := x.sync(); err != nil {
		return false, err
	}
	synced := time.Since(start)
	if n := fetchedNot(j, im); n > 0 {
		return false, fmt.Errorf("%d layers were not fetched: they were there already", n)
	}
	daemons, err := im.held(peak)
	if err != nil {
		return false, err
	}
	for chart, value := range map[int]float64{chartTime: took.Seconds(), chartSynced: synced.Seconds(),
		chartPeak: daemons, chartCommand: im.most} {
		if value > 0 {
			x.charts[chart].Rows[engine].add(column, value)
		}
	}
	return false, im.remove(ctx, j.names...)
}

func fetchedNot(j transfer, im *imager) int {
	if j.fetched == nil || im.apart {
		return 0
	}
	return j.fetched()
}

// sync waits until what was written is on the disk.
func (x *exhibition) sync() error {
	f, err := os.Open(x.m.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// settle keeps an engine from paying for what the one before wrote, and from finding names and inodes that others do
// not find. The pages stay in memory: the images, and the programs.
func (x *exhibition) settle() error {
	if err := x.sync(); err != nil {
		return err
	}
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0o200)
}

// atRest takes the memory that daemons have when there is nothing to do.
func (x *exhibition) atRest(column int) error {
	for i, im := range x.engines {
		mb, err := im.held(resident)
		if err != nil {
			return err
		}
		if mb > 0 {
			x.charts[chartRest].Rows[i].add(column, mb)
		}
	}
	return nil
}

// starts measures containers of images with many layers.
func (x *exhibition) starts(ctx context.Context) error {
	for column, p := range x.deep {
		progress("run of %s", p.title)
		name := x.registry.Name(p.image)
		c := x.charts[chartStart]
		has := map[int]bool{}
		err := x.turns(x.m.cfg.imageRounds*startsARound, func(i int, im *imager) (bool, error) {
			if im.run == nil {
				return true, nil
			}
			if !has[i] {
				if err := im.pull(ctx, p.image); err != nil {
					if c.Rows[i].Cells[column].Why = im.refusal(p.kind, err); c.Rows[i].Cells[column].Why == "" {
						return false, err
					}
					progress("%s: %v", im.name, err)
					return true, nil
				}
				has[i] = true
				if err := im.run(ctx, name); err != nil { // the first time is not like the others
					return false, err
				}
			}
			took, err := timed(func() error { return im.run(ctx, name) })
			if err != nil {
				return false, err
			}
			c.Rows[i].add(column, float64(took.Microseconds())/1e3)
			return false, rest(ctx)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", p.title, err)
		}
		for i := range has {
			if err := x.engines[i].remove(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// removals measures how images go, many at once.
func (x *exhibition) removals(ctx context.Context) error {
	var names []string
	for _, i := range x.many {
		names = append(names, inArchive(i))
	}
	progress("removal of %d images", manyImages)
	return x.turns(x.m.cfg.imageRounds, func(i int, im *imager) (bool, error) {
		if im.load == nil {
			return true, nil
		}
		for column, remove := range []func(context.Context) error{
			func(ctx context.Context) error { return im.remove(ctx, names...) }, im.prune} {
			if remove == nil {
				continue
			}
			took, err := x.removal(ctx, im, remove)
			if err != nil {
				return false, err
			}
			x.charts[chartRemove].Rows[i].add(column, float64(took.Microseconds())/1e3)
		}
		return false, nil
	})
}

// removal loads the images, and measures how they go.
func (x *exhibition) removal(ctx context.Context, im *imager, remove func(context.Context) error) (
	took time.Duration, err error) {
	if err := im.load(ctx, x.archive); err != nil {
		return 0, err
	}
	if n, err := im.images(ctx); err != nil || n != manyImages {
		return 0, errors.Join(err, fmt.Errorf("it has %d images, want %d", n, manyImages))
	}
	if err := x.settle(); err != nil {
		return 0, err
	}
	if took, err = timed(func() error { return remove(ctx) }); err != nil {
		return 0, err
	}
	if n, err := im.images(ctx); err != nil || n != 0 {
		return 0, errors.Join(err, fmt.Errorf("it still has %d images", n))
	}
	return took, nil
}

// expect compares with what is expected.
func (x *exhibition) expect() {
	for i, im := range x.engines {
		if len(im.limits) > 0 && len(im.daemons) > 0 {
			x.charts[chartTime].expectRatio(x.charts[chartTime].Rows[i], "pull", pullRatio)
		}
	}
	x.charts[chartPeak].expectMost(peakMemory)
	x.charts[chartSynced].near(floorDecompress, floorWrite)
}
