package shim

import (
	"encoding/json"
	"fmt"
	"os"
)

// WriteExit leaves an exit status at path, whole or not at all. It is not
// synced: the run directory is void after a boot, and until then the page cache
// survives whatever process dies.
func WriteExit(path string, e Exit) error {
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode the exit status: %w", err)
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return fmt.Errorf("write the exit status: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write the exit status: %w", err)
	}
	return nil
}

// ReadExit reads what WriteExit left; fs.ErrNotExist when there is nothing.
func ReadExit(path string) (Exit, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Exit{}, err
	}
	var e Exit
	if err := json.Unmarshal(b, &e); err != nil {
		return Exit{}, fmt.Errorf("decode the exit status %s: %w", path, err)
	}
	return e, nil
}
