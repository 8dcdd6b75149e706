package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/copying"
	"github.com/vethloom/vethloom/engine/shim"
)

// PathStat describes a file of a container.
type PathStat struct {
	Name       string
	Size       int64
	Mode       fs.FileMode
	Modified   time.Time
	LinkTarget string
}

// CopyInOptions say how to unpack into a container.
type CopyInOptions struct {
	// NoOverwriteDir refuses to have a directory and another kind of file take each other's place.
	NoOverwriteDir bool
	// KeepOwners leaves files the owners that the tar gives them; else root owns them.
	KeepOwners bool
}

// StatPath describes a file of a container.
func (e *Engine) StatPath(ctx context.Context, ref, path string) (PathStat, error) {
	st, err := e.copyFiles(ctx, ref, copying.Call{Request: copying.Request{Op: copying.OpStat, Path: path}})
	return PathStat(st), err
}

// CopyOut writes a tar of a file or directory of a container. The function is called before that with what it is.
func (e *Engine) CopyOut(ctx context.Context, ref, path string, begin func(PathStat) error, w io.Writer) error {
	_, err := e.copyFiles(ctx, ref, copying.Call{Request: copying.Request{Op: copying.OpOut, Path: path}, Out: w,
		Begin: func(st copying.Stat) error { return begin(PathStat(st)) }})
	return err
}

// CopyIn unpacks a tar, which may be compressed, into a directory of a container.
func (e *Engine) CopyIn(ctx context.Context, ref, path string, o CopyInOptions, r io.Reader) error {
	_, err := e.copyFiles(ctx, ref, copying.Call{Request: copying.Request{Op: copying.OpIn, Path: path,
		NoOverwriteDir: o.NoOverwriteDir, KeepOwners: o.KeepOwners}, In: r})
	return err
}

func (e *viewer) copyFiles(ctx context.Context, ref string, call copying.Call) (copying.Stat, error) {
	c, rec, err := e.settled(ctx, ref)
	if err != nil {
		return copying.Stat{}, err
	}
	ctx, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	if !isLive(rec.Status) {
		unlock, err := e.lock(ctx, c)
		if err != nil {
			return copying.Stat{}, err
		}
		defer unlock()
		if rec = e.snapshot(c); !isLive(rec.Status) {
			defer e.interruptible(c, abort)()
			err = e.copyStopped(ctx, c, rec, &call)
			if err != nil {
				return copying.Stat{}, err
			}
		}
	}
	if isLive(rec.Status) {
		if err := e.copyRunning(ctx, c, rec, &call); err != nil {
			return copying.Stat{}, err
		}
		defer call.Target.Close()
		// Its files are not to be held when it is started again.
		defer e.whenEnded(c, func() { abort(notRunning(rec.Spec.Name)) })()
	}
	call.Scratch, call.IDMap = e.runDir(), rec.IDMap
	st, err := copying.Launcher{Path: e.c.CopyPath}.Do(ctx, call)
	return st, copyError(rec.Spec.Name, call.Path, err)
}

// interruptible lets those who end a container give up what is done to one that does not run.
func (e *viewer) interruptible(c *container, abort context.CancelCauseFunc) (over func()) {
	set := func(abort context.CancelCauseFunc) {
		e.mu.Lock()
		defer e.mu.Unlock()
		c.abort = abort
	}
	set(abort)
	return func() { set(nil) }
}

// whenEnded calls a function when a container ends, unless it is stopped before.
func (e *viewer) whenEnded(c *container, f func()) (stop func()) {
	end, over := e.endOf(c), make(chan struct{})
	go func() {
		select {
		case <-end.done:
			f()
		case <-over:
		}
	}()
	return func() { close(over) }
}

// copyRunning opens the first process of a container, of which it makes sure that it is that.
func (e *viewer) copyRunning(ctx context.Context, c *container, rec record, call *copying.Call) error {
	fd, err := unix.PidfdOpen(rec.Pid, 0)
	if err != nil {
		return notRunning(rec.Spec.Name)
	}
	// What its supervisor has not reaped has kept its number.
	state, err := c.client().State(ctx)
	if err != nil || state.Pid != rec.Pid || state.Status != shim.Running && state.Status != shim.Paused {
		unix.Close(fd)
		if err == nil || noShim(err) {
			err = notRunning(rec.Spec.Name)
		}
		return err
	}
	call.Running, call.Target = true, os.NewFile(uintptr(fd), "pidfd")
	return nil
}

// copyStopped prepares what a start of the container would mount. The caller holds its lock.
func (e *viewer) copyStopped(ctx context.Context, c *container, rec record, call *copying.Call) error {
	if rec.Phase == cnm.Deleting {
		return errGone
	}
	img, err := e.c.Images.Resolve(ctx, rec.ImageID)
	if err != nil {
		return fmt.Errorf("find the image %s: %w", rec.Spec.Image, err)
	}
	if err := e.c.Images.CheckLayers(img); err != nil {
		return err
	}
	layers, err := e.c.Snapshots.Prepare(ctx, c.id, e.c.Images.LayerDirs(img))
	if err != nil {
		return err
	}
	if len(layers) == 0 {
		return errors.New("the snapshot has no mounts")
	}
	binds, err := e.binds(ctx, rec.Spec)
	if err != nil {
		return err
	}
	for i := range binds {
		binds[i].Propagation = "" // nothing that is done here is to be seen elsewhere
	}
	for _, b := range etcBinds(c.dir) {
		if _, err := os.Lstat(b.Source); err == nil {
			binds = append(binds, b)
		}
	}
	call.Bundle = shim.Bundle{ID: c.id, Root: layers[len(layers)-1].Target, RootMounts: layers, Binds: ordered(binds),
		Options: shim.Options{ReadOnly: rec.Spec.ReadOnly}, IDMap: rec.IDMap,
		StateDir: filepath.Join(c.run, "state")}
	return nil
}

// copyError says of a failure what it is about.
func copyError(container, path string, err error) error {
	told, ok := errors.AsType[*copying.Error](err)
	if !ok {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("container %s: %w: install net-copy beside net-shim", container, err)
		}
		return err
	}
	e := &cnm.Error{Field: "path", Value: path, Reason: told.Message}
	switch told.Code {
	case copying.CodeNotFound:
		e.Kind, e.Reason = cnm.ErrNotFound, fmt.Sprintf("Could not find the file %s in container %s", path, container)
	case copying.CodeInvalid:
		e.Kind = cnm.ErrInvalid
	case copying.CodeReadOnly:
		e.Kind = cnm.ErrForbidden
	default:
		return fmt.Errorf("copy %s of container %s: %w", path, container, err)
	}
	return e
}
