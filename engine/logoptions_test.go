package engine_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
)

func TestLogOptions(t *testing.T) {
	w := newWorld(t)
	c := w.create(engine.Spec{Command: sh("seq 1 300000"), LogDriver: "json-file",
		LogOptions: map[string]string{"max-size": "4k", "max-file": "2", "labels": "a", "env": "b", "tag": "c"}})
	if _, err := w.e.Attach(t.Context(), c.ID, true, engine.Stdio{}); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(w.dir, "root/containers", c.ID, "log*"))
	if err != nil || len(files) != 2 {
		t.Errorf("files %v, %v", files, err)
	}
	for _, f := range files { // output that came at once is in one file
		if info, err := os.Stat(f); err != nil || info.Size() > 1<<20 {
			t.Errorf("%s: %v, %v", f, info, err)
		}
	}
	if got := w.logs(c.ID); !strings.HasSuffix(got, "\n300000\n") || strings.HasPrefix(got, "1\n") {
		t.Errorf("log of %d bytes", len(got))
	}
}

func TestNoLog(t *testing.T) {
	w := newWorld(t)
	got := w.mustRun(engine.Spec{Name: "quiet", Command: sh("echo hello; echo bad >&2"), LogDriver: "none"}, "")
	if got.out != "hello\n" || got.err != "bad\n" {
		t.Errorf("attached: %+v", got)
	}
	c, err := w.e.Inspect(t.Context(), "quiet")
	if err != nil || c.LogPath != "" {
		t.Errorf("log path %q, %v", c.LogPath, err)
	}
	if files, _ := filepath.Glob(filepath.Join(w.dir, "root/containers", c.ID, "log*")); len(files) > 0 {
		t.Errorf("files %v", files)
	}
	err = w.e.Logs(t.Context(), engine.LogsRequest{Container: "quiet", Tail: -1},
		func(engine.LogLine) error { return nil })
	if told, ok := errors.AsType[*cnm.Error](err); !ok || told.Field != "log-driver" || told.Remedy == "" {
		t.Errorf("logs: %v", err)
	}
}

func TestLogOptionsThatAreRefused(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct{ driver, name, value, field string }{
		{"journald", "", "", "log-driver"}, {"", "max-size", "x", "log-opt"}, {"", "max-size", "1", "log-opt"},
		{"", "max-size", "-1", "log-opt"}, {"", "max-size", "5000g", "log-opt"}, {"", "max-file", "0", "log-opt"},
		{"", "max-file", "99999", "log-opt"}, {"", "compress", "perhaps", "log-opt"}, {"", "mode", "x", "log-opt"},
		{"", "path", "/etc/passwd", "log-opt"},
	} {
		spec := engine.Spec{Image: "busybox", LogDriver: tt.driver}
		if tt.name != "" {
			spec.LogOptions = map[string]string{tt.name: tt.value}
		}
		_, _, err := w.e.Create(t.Context(), spec)
		if told, ok := errors.AsType[*cnm.Error](err); !ok || told.Field != tt.field || told.Remedy == "" {
			t.Errorf("%+v: %v", tt, err)
		}
	}
	_, warnings, err := w.e.Create(t.Context(), engine.Spec{Image: "busybox", LogOptions: map[string]string{
		"compress": "true", "mode": "non-blocking"}, Networks: []cnm.AttachRequest{{Network: "none"}}})
	if err != nil || len(warnings) != 2 {
		t.Errorf("warnings %q, %v", warnings, err)
	}
}
