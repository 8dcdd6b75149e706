package server

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/plugin/attach"
)

func TestRequestsThatAreRefused(t *testing.T) {
	const cni = `{"version": 1, "engine": "cni", `
	for text, want := range map[string]string{
		``:               "EOF",
		`{}`:             "version 0",
		`{"version": 2}`: "version 2",
		`{"version": 1, "call": "attach", "x": 1}`:             "unknown field",
		`{"version": 1} {}`:                                    "behind its end",
		`{"version": 1, "call": "attach", "engine": "docker"}`: `engine "docker"`,
		cni + `"call": "dance"}`:                               `call "dance"`,
		cni + `"call": "attach"}`:                              "container",
		cni + `"call": "reserve", "container": "x/y", "interface": "e", "netns": "/x"}`: "no slash",
		cni + `"call": "detach", "container": "x"}`:                                     "interface",
		cni + `"call": "attach", "container": "x", "interface": "e", "netns": "x"}`:     "absolute",
		cni + `"call": "detach", "container": "` + strings.Repeat("x", 257) + `"}`:      "256 bytes",
	} {
		r, err := parse([]byte(text))
		if err == nil {
			err = check(r)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want %q", text, err, want)
		}
	}
}

func FuzzRequest(f *testing.F) {
	text, err := json.Marshal(attach.Request{Version: 1, Call: attach.Attach, NetNS: "/n",
		Key: attach.Key{Engine: "cni", Container: "x", Interface: "eth0"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parse(text)
		if err != nil || check(r) != nil {
			return
		}
		if id := attach.SandboxID(r.Engine, r.Container); len(id) != 64 {
			t.Fatalf("ID %q", id)
		}
	})
}

// What others have put into the folder of detaches is passed over, without waiting for anybody.
func TestDetachesThatWereLeft(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "attach.sock")
	k := attach.Key{Engine: "cni", Container: "../x", Interface: "eth0"}
	if err := attach.Later(socket, k); err != nil {
		t.Fatal(err)
	}
	dir := attach.LaterDir(socket)
	for name, make := range map[string]func(path string) error{
		"fifo":   func(p string) error { return unix.Mkfifo(p, 0o600) },
		"folder": func(p string) error { return os.Mkdir(p, 0o700) },
		"link":   func(p string) error { return os.Symlink("/dev/zero", p) },
		"large":  func(p string) error { return os.WriteFile(p, []byte(strings.Repeat(" ", 5000)+"{}"), 0o600) },
		"text":   func(p string) error { return os.WriteFile(p, []byte("no"), 0o600) },
		"other":  func(p string) error { return os.WriteFile(p, []byte(`{"engine":"cni","container":"y"}`), 0o600) },
	} {
		if err := make(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	left, err := attach.Left(dir)
	if err != nil || len(left) != 1 || left[0] != k || !attach.IsLeft(dir, k) {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := attach.Done(dir, k); err != nil || attach.IsLeft(dir, k) {
		t.Errorf("done: %v", err)
	}
}
