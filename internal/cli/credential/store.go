package credential

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Kept says where a credential is kept now.
type Kept struct {
	File   string // Docker's config.json
	Helper string // the program that has it; "": the file has it, where whoever reads the file has it too
}

// Store keeps a credential for a host as Docker does: by the helper that its file names, else in the file itself.
func (f Files) Store(ctx context.Context, host string, c Credential) (Kept, error) {
	path := f.docker()
	kept := Kept{File: path}
	file, err := load(path)
	if err != nil {
		return kept, err
	}
	entry := map[string]string{} // with a helper, it says that there is something
	name := ""
	if file != nil {
		name = helperFor(file, host)
	}
	if name != "" {
		h := f.helper(ctx, name)
		kept.Helper = h.String()
		if err := h.store(Key(host), c); err != nil {
			return kept, err
		}
	} else {
		entry["auth"] = base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + c.Password))
	}
	return kept, edit(path, func(auths map[string]json.RawMessage) (bool, error) {
		b, err := json.Marshal(entry)
		auths[Key(host)] = b
		return true, err
	})
}

// Erase forgets what Docker's file and its helper have for a host, and says whether the file had anything.
func (f Files) Erase(ctx context.Context, host string) (had bool, err error) {
	path := f.docker()
	file, err := load(path)
	if err != nil || file == nil {
		return false, err
	}
	if name := helperFor(file, host); name != "" {
		h := f.helper(ctx, name)
		if _, had, err = h.get(Key(host)); err != nil {
			return had, err
		}
		if err := h.erase(Key(host)); err != nil {
			return had, err
		}
	}
	err = edit(path, func(auths map[string]json.RawMessage) (bool, error) {
		changed := false
		for key := range auths {
			if h, err := Host(key); err == nil && h == host {
				delete(auths, key)
				changed = true
			}
		}
		had = had || changed
		return changed, nil
	})
	return had, err
}

// Elsewhere are the files of Podman that have something for a host: nothing is changed there.
func (f Files) Elsewhere(host string) (paths []string) {
	for _, path := range f.paths() {
		if path == f.docker() {
			continue
		}
		file, err := load(path)
		if err != nil || file == nil {
			continue // what cannot be read has nothing for us either
		}
		for _, key := range keys(host, "") {
			if set(file.AuthConfigs[key]) {
				paths = append(paths, path)
				break
			}
		}
	}
	return paths
}

// edit changes the credentials in Docker's file, and nothing else of it. It is replaced in one step, and only its
// owner can read it then.
func edit(path string, change func(auths map[string]json.RawMessage) (bool, error)) error {
	all := map[string]json.RawMessage{}
	b, err := read(path)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(b)) > 0 {
		if err := json.Unmarshal(b, &all); err != nil {
			return fmt.Errorf("change credentials: %s is malformed: %w", path, err)
		}
	}
	auths := map[string]json.RawMessage{}
	if raw := all["auths"]; raw != nil {
		if err := json.Unmarshal(raw, &auths); err != nil {
			return fmt.Errorf("change credentials: auths of %s is malformed: %w", path, err)
		}
	}
	if auths == nil { // it is null
		auths = map[string]json.RawMessage{}
	}
	if changed, err := change(auths); err != nil || !changed {
		return err
	}
	if all["auths"], err = json.Marshal(auths); err != nil {
		return fmt.Errorf("change credentials: %w", err)
	}
	out, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		return fmt.Errorf("change credentials: %w", err)
	}
	if err := replace(path, append(out, '\n')); err != nil {
		return fmt.Errorf("change credentials in %s: %w", path, err)
	}
	return nil
}

// replace writes a file that only its owner can read. A link stays one.
func replace(path string, content []byte) (err error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".config.json-*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	if st, err := os.Stat(path); err == nil { // root may write what is another user's
		if owner, ok := st.Sys().(*syscall.Stat_t); ok {
			if err := tmp.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
				return errors.Join(err, tmp.Close())
			}
		}
	}
	if _, err := tmp.Write(content); err != nil {
		return errors.Join(err, tmp.Close())
	}
	if err := tmp.Sync(); err != nil {
		return errors.Join(err, tmp.Close())
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
