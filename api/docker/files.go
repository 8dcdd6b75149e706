package docker

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/engine"
)

// This file has what there is to do with the files of a container.

// changes answers with a list that may be long, and is written as it is found.
func (s containerService) changes(w *answer, r *http.Request) error {
	l := list{w: w}
	err := s.cfg.Containers.Changes(r.Context(), r.PathValue("id"), func(some []server.FileChange) error {
		for _, c := range some {
			if err := l.add(container.FilesystemChange{Kind: changeKind(c.Kind), Path: c.Path}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return l.end()
}

func changeKind(kind string) container.ChangeType {
	switch kind {
	case server.ChangeAdded:
		return container.ChangeAdd
	case server.ChangeDeleted:
		return container.ChangeDelete
	}
	return container.ChangeModify
}

// list writes a list in JSON, one after the other.
type list struct {
	w     *answer
	count int
}

func (l *list) add(v any) error {
	before := byte(',')
	if l.count == 0 {
		l.begin()
		before = '['
	}
	l.count++
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_ = l.w.control.SetWriteDeadline(time.Now().Add(streamTime))
	_, err = l.w.Write(append([]byte{before}, text...))
	return err
}

func (l *list) begin() {
	l.w.Header().Set("Content-Type", "application/json")
	l.w.WriteHeader(http.StatusOK)
}

func (l *list) end() error {
	text := "]\n"
	if l.count == 0 {
		l.begin()
		text = "[]\n"
	}
	_, err := io.WriteString(l.w, text)
	return err
}

func (s containerService) export(w *answer, r *http.Request) error {
	if _, err := s.find(r.Context(), r); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	return s.cfg.Containers.Export(r.Context(), r.PathValue("id"), download{w})
}

// statHeader describes the file of an answer.
const statHeader = "X-Docker-Container-Path-Stat"

func setPathStat(w *answer, st engine.PathStat) error {
	text, err := json.Marshal(container.PathStat{Name: st.Name, Size: st.Size, Mode: st.Mode, Mtime: st.Modified,
		LinkTarget: st.LinkTarget})
	if err != nil {
		return err
	}
	w.Header().Set(statHeader, base64.StdEncoding.EncodeToString(text))
	return nil
}

// pathOf is the path that a request is about.
func pathOf(r *http.Request) (string, error) {
	path := r.URL.Query().Get("path")
	if path == "" {
		return "", invalid("path", path, "is empty", "name a file or directory of the container")
	}
	return path, nil
}

func (s containerService) statPath(w *answer, r *http.Request) error {
	path, err := pathOf(r)
	if err != nil {
		return err
	}
	st, err := s.cfg.Containers.StatPath(r.Context(), r.PathValue("id"), path)
	if err != nil {
		return err
	}
	if err := setPathStat(w, st); err != nil {
		return err
	}
	return w.empty(http.StatusOK)
}

func (s containerService) copyOut(w *answer, r *http.Request) error {
	path, err := pathOf(r)
	if err != nil {
		return err
	}
	begin := func(st engine.PathStat) error {
		w.Header().Set("Content-Type", "application/x-tar")
		return setPathStat(w, st)
	}
	return s.cfg.Containers.CopyOut(r.Context(), r.PathValue("id"), path, begin, download{w})
}

func (s containerService) copyIn(w *answer, r *http.Request) error {
	path, err := pathOf(r)
	if err != nil {
		return err
	}
	o := engine.CopyInOptions{NoOverwriteDir: flag(r, "noOverwriteDirNonDir"), KeepOwners: flag(r, "copyUIDGID")}
	if err := s.cfg.Containers.CopyIn(r.Context(), r.PathValue("id"), path, o, upload{w, r.Body}); err != nil {
		return err
	}
	return w.empty(http.StatusOK)
}
