package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
)

// checkDatabase opens etcd's database as etcd will. Etcd does it in a goroutine of its own, where what is wrong
// with the file would end the process; and a truncated file would end it by SIGBUS.
func checkDatabase(dir string) (err error) {
	path := filepath.Join(dir, "member", "snap", "db")
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a new directory
	}
	if err != nil {
		return fmt.Errorf("look at the database of etcd: %w", err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return damaged(dir, fmt.Errorf("open %s: %w", path, err))
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.View(func(tx *bbolt.Tx) error {
		if tx.Size() > info.Size() {
			return damaged(dir, fmt.Errorf("%s has %d bytes, %d are missing", path, info.Size(), tx.Size()-info.Size()))
		}
		return nil
	})
}
