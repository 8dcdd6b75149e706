package bolt

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

func (f *file) goodPath() string { return f.path + ".good" }

// recoverFile leaves a file in place that bbolt can open, or none.
func (f *file) recoverFile() error {
	have, err := verify(f.path)
	missing := errors.Is(err, os.ErrNotExist) || errors.Is(err, errEmpty)
	switch {
	case err == nil && have.boot != f.boot:
		return f.discard()
	case err == nil && have.format != "" && have.format != format:
		return fmt.Errorf("its format is %q and this version knows %q: it was written by another version of netd; "+
			"use that one, or move the file away to start empty", have.format, format)
	case err == nil:
		return nil
	case errors.Is(err, os.ErrPermission):
		return err
	}
	damage := err
	copied, err := verify(f.goodPath())
	usable := err == nil && copied.boot == f.boot && (copied.format == format)
	if missing && !usable {
		if errors.Is(err, os.ErrNotExist) || err == nil {
			return removeIfExists(f.path) // the first start, or another boot
		}
		f.notice("%s is missing and its good copy is damaged (%v): starting empty", f.path, err)
		return removeIfExists(f.path)
	}
	what := fmt.Sprintf("%s was damaged (%v)", f.path, damage)
	if errors.Is(damage, os.ErrNotExist) {
		what = f.path + " was missing"
	} else {
		aside, err := f.moveAside()
		if err != nil {
			return err
		}
		what += " and is now " + aside
	}
	if !usable {
		f.notice("%s; there is no good copy of it: starting empty%s", what, f.loss())
		return nil
	}
	info, err := os.Stat(f.goodPath())
	if err != nil {
		return err
	}
	if err := copyFile(f.goodPath(), f.path); err != nil {
		return fmt.Errorf("restore the good copy: %w", err)
	}
	f.notice("%s; the last good copy, with %d records, written at %s, was restored: what changed after that is lost",
		what, copied.records, info.ModTime().UTC().Format(time.RFC3339))
	return nil
}

// loss says what an empty file means.
func (f *file) loss() string {
	if f.durable() {
		return "; networks, containers, images and volumes that it knew of are forgotten"
	}
	return "; containers that run have lost the records of their endpoints: restart them"
}

// discard removes what another boot has left: nothing it describes exists.
func (f *file) discard() error {
	f.log.Info("discarding the records of another boot", "file", f.path)
	return errors.Join(removeIfExists(f.path), removeIfExists(f.goodPath()))
}

func (f *file) moveAside() (string, error) {
	base := fmt.Sprintf("%s.corrupt-%s", f.path, f.now().UTC().Format("20060102T150405Z"))
	aside := base
	for i := 2; ; i++ {
		if _, err := os.Lstat(aside); errors.Is(err, os.ErrNotExist) {
			break
		}
		aside = fmt.Sprintf("%s-%d", base, i)
	}
	if err := os.Rename(f.path, aside); err != nil {
		return "", fmt.Errorf("move the damaged file aside: %w", err)
	}
	return aside, nil
}

func (f *file) notice(format string, args ...any) {
	f.notices = append(f.notices, fmt.Sprintf(format, args...))
}

func removeIfExists(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// copyFile replaces a file by a copy of another, so that at any time there is
// the old one or the whole of the new one.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	return replace(to, true, func(w io.Writer) error {
		_, err := io.Copy(w, in)
		return err
	}, nil)
}

// replace writes a new file next to path, checks it, and renames it into place.
func replace(path string, flush bool, write func(io.Writer) error, check func(path string) error) (err error) {
	tmp := path + ".new"
	out, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeIfExists(tmp))
		}
	}()
	err = write(out)
	if err == nil && flush {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	if check != nil {
		if err := check(tmp); err != nil {
			return err
		}
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	if !flush {
		return nil
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
