package credential_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vethloom/vethloom/internal/cli/credential"
)

// home is a user's home, with the files of it.
func home(t *testing.T, files map[string]string) (credential.Files, string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	env := map[string]string{"HOME": dir, "XDG_RUNTIME_DIR": filepath.Join(dir, "run")}
	return credential.Files{Env: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
		Timeout: 10 * time.Second}, dir
}

const (
	docker = ".docker/config.json"
	podman = "run/containers/auth.json"
)

// helper is a program that keeps credentials.
func helper(name string, script string) map[string]string {
	return map[string]string{
		docker:                          `{"credsStore": "` + name + `", "auths": {"b.test": {"auth": "Yjpi"}}}`,
		"bin/docker-credential-" + name: "#!/bin/sh\n" + script,
	}
}

func TestHosts(t *testing.T) {
	for name, want := range map[string]string{
		"": "docker.io", "docker.io": "docker.io", "index.docker.io": "docker.io",
		"https://index.docker.io/v1/": "docker.io", "Example.org:5000": "example.org:5000",
		"http://r.test/v2/": "r.test", "[fd00::1]:5000": "[fd00::1]:5000",
	} {
		if got, err := credential.Host(name); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"r.test/team", "https://r.test/team/app:1", "user@r.test", "a b"} {
		if got, err := credential.Host(name); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%q: %q, %v", name, got, err)
		}
	}
}

// What is nearest to the image counts, and what counts first of the files; of tokens and passwords each is what it is.
func TestFind(t *testing.T) {
	f, _ := home(t, map[string]string{
		docker: `{"auths": {
			"https://index.docker.io/v1/": {"auth": "aHViOng="},
			"https://old.test/v1/": {"auth": "b2xkOng="},
			"r.test": {"auth": "YWxsOng="},
			"r.test/team": {"auth": "dGVhbTp4"},
			"token.test": {"identitytoken": "i"},
			"bearer.test": {"registrytoken": "r"},
			"plain.test": {"username": "p", "password": "q"},
			"empty.test": {}}}`,
		podman: `{"auths": {"r.test": {"auth": "cG9kbWFuOng="}, "p.test": {"auth": "cG9kbWFuOng="}}}`,
	})
	for _, c := range []struct{ host, image, want string }{
		{"docker.io", "", "hub"}, {"old.test", "", "old"}, {"r.test", "", "all"}, {"r.test", "r.test/app:1", "all"},
		{"r.test", "r.test/team/app:1", "team"}, {"r.test", "r.test/team/a/b@sha256:00", "team"},
		{"r.test", "r.test/teams/app", "all"}, {"p.test", "", "podman"}, {"plain.test", "", "p"},
		{"r.test:5000", "", ""}, {"nobody.test", "", ""}, {"empty.test", "", ""},
	} {
		got, found, err := f.Find(t.Context(), c.host, c.image)
		if err != nil || got.Username != c.want || found != (c.want != "") {
			t.Errorf("%s %s: %v %v %v, want %q", c.host, c.image, got, found, err, c.want)
		}
	}
	for host, want := range map[string]credential.Credential{"token.test": {IdentityToken: "i"},
		"bearer.test": {RegistryToken: "r"}, "plain.test": {Username: "p", Password: "q"}} {
		if got, found, err := f.Find(t.Context(), host, ""); err != nil || !found || got != want {
			t.Errorf("%s: %v %v", host, got, err)
		}
	}
}

// A credential that is printed by mistake tells no secret.
func TestCredentialsArePrintedWithoutSecrets(t *testing.T) {
	c := credential.Credential{Username: "ada", Password: "hunter2", IdentityToken: "idtoken", RegistryToken: "bearer"}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		text := fmt.Sprintf(format, c)
		for _, secret := range []string{c.Password, c.IdentityToken, c.RegistryToken} {
			if strings.Contains(text, secret) {
				t.Errorf("%s writes %s", format, text)
			}
		}
	}
}

// Files that are wrong are told, with their names and without what they hold, and others are looked into all the same.
func TestFilesThatAreWrong(t *testing.T) {
	for name, text := range map[string]string{"no JSON": "{",
		"no base64": `{"auths": {"r.test": {"auth": "\u0001hunter2"}}}`,
		"no colon":  `{"auths": {"r.test": {"auth": "aHVudGVyMg=="}}}`, "a list": `{"auths": []}`,
		"endless": `{"auths": {` + strings.Repeat(" ", 1<<20) + `}}`} {
		f, dir := home(t, map[string]string{docker: text, podman: `{"auths": {"p.test": {"auth": "cG9kbWFuOng="}}}`})
		_, found, err := f.Find(t.Context(), "r.test", "")
		if found || err == nil || !strings.Contains(err.Error(), filepath.Join(dir, docker)) ||
			strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
		if _, found, _ := f.Find(t.Context(), "p.test", ""); !found {
			t.Errorf("%s: what Podman has is not found", name)
		}
		if _, err := f.Store(t.Context(), "r.test", credential.Credential{Username: "a", Password: "b"}); err == nil {
			t.Errorf("%s: a file that cannot be read was written", name)
		}
	}
	f, dir := home(t, nil)
	if err := os.MkdirAll(filepath.Join(dir, docker), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.Find(t.Context(), "r.test", ""); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("a directory: %v", err)
	}
	f.Env = func(string) (string, bool) { return "", false }
	if _, _, err := f.Find(t.Context(), "r.test", ""); err == nil || !strings.Contains(err.Error(), "set HOME") {
		t.Errorf("no home: %v", err)
	}
}

func TestHelpers(t *testing.T) {
	f, dir := home(t, helper("ok", `read -r key; echo "$1 $key" >> "`+"$0.log"+`"
case $key in
https://index.docker.io/v1/) echo '{"Username":"hub","Secret":"x"}' ;;
token.test) echo '{"Username":"<token>","Secret":"t"}' ;;
fails.test) echo "a complaint" >&2; exit 1 ;;
*) echo "credentials not found in native keychain"; exit 1 ;;
esac`))
	if c, found, err := f.Find(t.Context(), "docker.io", ""); err != nil || !found || c.Username != "hub" {
		t.Errorf("%v %v %v", c, found, err)
	}
	if c, found, err := f.Find(t.Context(), "token.test", ""); err != nil || !found || c.IdentityToken != "t" ||
		c.Username != "" {
		t.Errorf("%v %v %v", c, found, err)
	}
	// What the helper does not have, the file may have.
	if c, found, err := f.Find(t.Context(), "b.test", ""); err != nil || !found || c.Username != "b" {
		t.Errorf("%v %v %v", c, found, err)
	}
	if _, found, err := f.Find(t.Context(), "none.test", ""); err != nil || found {
		t.Errorf("%v %v", found, err)
	}
	if _, found, err := f.Find(t.Context(), "fails.test", ""); found || err == nil ||
		!strings.Contains(err.Error(), "docker-credential-ok") || !strings.Contains(err.Error(), "a complaint") {
		t.Errorf("%v %v", found, err)
	}
	log, err := os.ReadFile(filepath.Join(dir, "bin/docker-credential-ok.log"))
	if err != nil || !strings.HasPrefix(string(log), "get https://index.docker.io/v1/\nget token.test\nget b.test\n") {
		t.Errorf("it was asked %q, %v", log, err)
	}
}

// A helper has an end, in time and in what it says, and is one that is installed.
func TestHelpersAreBounded(t *testing.T) {
	for name, c := range map[string]struct{ script, want string }{
		"sleeps":     {"sleep 60", "has not ended for 300ms"},
		"leaves":     {"sleep 60 & exec cat > /dev/null", "background"},
		"talks":      {"yes | head -c 3000000", "more than 1048576 bytes"},
		"complains":  {"yes | head -c 300000 >&2; exit 1", "exit status 1"},
		"garbles":    {"echo '{'", "unexpected EOF"},
		"../bin/out": {"", "no name of a helper"},
	} {
		file := helper(name, c.script)
		if strings.Contains(name, "/") {
			file = map[string]string{docker: `{"credsStore": "` + name + `"}`}
		}
		f, _ := home(t, file)
		if name == "sleeps" {
			f.Timeout = 300 * time.Millisecond
		}
		begin := time.Now()
		_, found, err := f.Find(t.Context(), "r.test", "")
		if took := time.Since(begin); took > 8*time.Second {
			t.Errorf("%s: it took %v", name, took)
		}
		if c.want == "background" { // it ends well, and says nothing
			if found {
				t.Errorf("%s: found something", name)
			}
			continue
		}
		if found || err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 2000 {
			t.Errorf("%s: %v %.2000v", name, found, err)
		}
	}
	f, _ := home(t, helper("sleeps", "sleep 60"))
	f.Timeout = time.Minute
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, _, err := f.Find(ctx, "r.test", ""); err == nil {
		t.Error("a helper goes on without its caller")
	}
}

// Storing changes the one credential in the file and nothing else of it, and nobody else can read it.
func TestStoreAndErase(t *testing.T) {
	f, dir := home(t, map[string]string{"real.json": `{"auths": {"other.test": {"auth": "YTpi", "email": "e"}},
		"detachKeys": "ctrl-x", "plugins": {"x": {"y": "z"}}}`})
	path := filepath.Join(dir, docker)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../real.json", path); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"r.test", "docker.io"} {
		kept, err := f.Store(t.Context(), host, credential.Credential{Username: "ada", Password: "a:b"})
		if err != nil || kept.File != path || kept.Helper != "" {
			t.Fatalf("%v, %v", kept, err)
		}
		if c, found, err := f.Find(t.Context(), host, ""); err != nil || !found || c.Password != "a:b" ||
			c.Username != "ada" {
			t.Errorf("%s: %v %v", host, found, err)
		}
	}
	if st, err := os.Lstat(path); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link has become a file: %v", err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("it can be read by others: %v, %v", st.Mode(), err)
	}
	content := func() map[string]any {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	m := content()
	if m["detachKeys"] != "ctrl-x" || fmt.Sprint(m["plugins"]) != "map[x:map[y:z]]" ||
		fmt.Sprint(m["auths"].(map[string]any)["other.test"]) != "map[auth:YTpi email:e]" {
		t.Errorf("something else has changed: %v", m)
	}
	for _, host := range []string{"r.test", "docker.io"} {
		if had, err := f.Erase(t.Context(), host); err != nil || !had {
			t.Errorf("%s: %v %v", host, had, err)
		}
		if had, err := f.Erase(t.Context(), host); err != nil || had {
			t.Errorf("%s again: %v %v", host, had, err)
		}
	}
	if m := content(); len(m["auths"].(map[string]any)) != 1 {
		t.Errorf("left: %v", m["auths"])
	}
	left, err := os.ReadDir(dir)
	if names := slices.Collect(func(yield func(string) bool) {
		for _, e := range left {
			if !yield(e.Name()) {
				return
			}
		}
	}); err != nil || !slices.Equal(names, []string{".docker", "real.json"}) {
		t.Errorf("there are %v, %v", names, err)
	}
}

// A helper keeps what it is given; the file says only that there is something.
func TestStoreByAHelper(t *testing.T) {
	f, dir := home(t, helper("keeps", `case $1 in
store) cat > "$0.kept" ;;
get) [ -s "$0.kept" ] && cat "$0.kept" || { echo "credentials not found in native keychain"; exit 1; } ;;
erase) rm "$0.kept" ;;
esac`))
	kept, err := f.Store(t.Context(), "r.test", credential.Credential{Username: "ada", Password: "hunter2"})
	if err != nil || kept.Helper != "docker-credential-keeps" {
		t.Fatalf("%v %v", kept, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, docker)); err != nil || strings.Contains(string(b), "YWRh") ||
		!strings.Contains(string(b), `"r.test": {}`) {
		t.Errorf("%s, %v", b, err)
	}
	if c, found, err := f.Find(t.Context(), "r.test", ""); err != nil || !found || c.Password != "hunter2" {
		t.Errorf("%v %v", found, err)
	}
	if had, err := f.Erase(t.Context(), "r.test"); err != nil || !had {
		t.Errorf("%v %v", had, err)
	}
	if _, found, err := f.Find(t.Context(), "r.test", ""); err != nil || found {
		t.Errorf("%v %v", found, err)
	}
	f, _ = home(t, helper("refuses", "cat > /dev/null; echo locked >&2; exit 1"))
	_, err = f.Store(t.Context(), "r.test", credential.Credential{Username: "a", Password: "hunter2"})
	if err == nil || !strings.Contains(err.Error(), "locked") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}
