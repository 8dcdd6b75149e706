package bolt

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
)

// TestUndo checks what follows a commit whose last flush failed after its
// last page was written: the caller was told that it failed, so the next
// commit takes it back before anything else.
func TestUndo(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(t.Context(), Config{
		StateFile: filepath.Join(dir, "state.db"), RuntimeFile: filepath.Join(dir, "runtime.db"), BootID: "b",
		CopyDelay: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	key := func(id string) cnm.Key { return cnm.Key{Kind: cnm.KindNetwork, ID: id} }
	raw := func(id string) change {
		t.Helper()
		r, err := s.Get(t.Context(), key(id))
		if errors.Is(err, cnm.ErrNotFound) {
			return change{key: recordKey(key(id))}
		}
		if err != nil {
			t.Fatal(err)
		}
		k := recordKey(key(id))
		return change{key: k, before: encodeRecord(k, r.Value, r.Revision)}
	}
	commit := func(ws ...cnm.Write) {
		t.Helper()
		if err := s.Commit(t.Context(), ws...); err != nil {
			t.Fatal(err)
		}
	}
	commit(cnm.Write{Key: key("changed"), Value: []byte("old")}, cnm.Write{Key: key("removed"), Value: []byte("old")})
	before, err := s.Get(t.Context(), key("changed"))
	if err != nil {
		t.Fatal(err)
	}
	undo := []change{raw("changed"), raw("removed"), raw("added")}
	commit(
		cnm.Write{Key: key("changed"), Value: []byte("new"), Revision: before.Revision},
		cnm.Write{Key: key("removed"), Revision: before.Revision},
		cnm.Write{Key: key("added"), Value: []byte("new")},
	)
	s.state.undo = undo // as if that commit had failed
	if err := s.Commit(t.Context(), cnm.Write{Key: key("added"), Revision: 99}); !errors.Is(err, cnm.ErrConflict) {
		t.Errorf("the next commit: %v", err)
	}
	for id, want := range map[string]string{"changed": "old", "removed": "old", "added": ""} {
		r, err := s.Get(t.Context(), key(id))
		if string(r.Value) != want || (want == "") != errors.Is(err, cnm.ErrNotFound) || want != "" &&
			r.Revision != before.Revision {
			t.Errorf("%s holds %q at revision %d, %v; want %q at %d", id, r.Value, r.Revision, err, want,
				before.Revision)
		}
	}
	if s.state.undo != nil {
		t.Error("it would be undone again")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := verify(s.state.path); err != nil {
		t.Errorf("the file afterwards: %v", err)
	}
}
