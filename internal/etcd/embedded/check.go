package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// checkData reports whether there are data, and opens etcd's database as etcd will. Etcd does it in a
// goroutine of its own, where what is wrong with the file would end the process; and a truncated
// file would end it by SIGBUS.
func checkData(dir string) (old bool, err error) {
	path := filepath.Join(dir, "member", "snap", "db")
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // a new directory, or etcd itself says what is wrong
	}
	if err != nil {
		return false, fmt.Errorf("look at the database of etcd: %w", err)
	}
	logs, err := filepath.Glob(filepath.Join(dir, "member", "wal", "*.wal"))
	if err != nil {
		return false, fmt.Errorf("look at the logs of etcd in %s: %w", dir, err)
	}
	if len(logs) == 0 { // etcd would wait for itself for ever
		return false, damaged(dir, fmt.Errorf("the logs of %s are missing", path))
	}
	return true, checkDatabase(dir, path, info.Size())
}

// checkRoom refuses to start etcd where it would soon end: what cannot be written, it answers by ending the process.
func checkRoom(dir string, old bool) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look at the disk of etcd: %w", &fs.PathError{Op: "statfs", Path: dir, Err: err})
	}
	want := uint64(roomForNew)
	if old {
		want = roomForOld
	}
	if free := st.Bavail * uint64(st.Bsize); free < want {
		return fmt.Errorf("start etcd in %s: %w: %d MiB are free, and it wants %d; it starts by itself once there "+
			"is room", dir, ErrNoRoom, free>>20, want>>20)
	}
	return nil
}

func checkDatabase(dir, path string, size int64) (err error) {
	if size == 0 {
		return damaged(dir, fmt.Errorf("%s is empty", path))
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return damaged(dir, fmt.Errorf("open %s: %w", path, err))
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.View(func(tx *bbolt.Tx) error {
		if tx.Size() > size {
			return damaged(dir, fmt.Errorf("%s has %d bytes, %d are missing", path, size, tx.Size()-size))
		}
		return nil
	})
}
