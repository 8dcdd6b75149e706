package registry

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Whatever a hosts.toml holds, it is refused, or each of its servers can be asked.
func FuzzHosts(f *testing.F) {
	for _, l := range layouts {
		for _, text := range l.hosts {
			f.Add([]byte(text))
		}
	}
	f.Add([]byte("server = \"https://x\"\nca = [\"a\"]\nclient = [[\"a\", \"b\"]]\n[host.x.header]\na = [\"b\"]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := parseHosts("/etc/x/hosts.toml", data)
		if err != nil {
			return
		}
		for _, push := range []bool{false, true} {
			all, err := file.endpoints(reference{host: "x.example", repository: "a", tag: "1"}, push)
			if err != nil && !push || err == nil && len(all) == 0 {
				t.Fatalf("%d endpoints: %v", len(all), err)
			}
			checkEndpoints(t, all)
		}
	})
}

func FuzzRegistries(f *testing.F) {
	for _, l := range layouts {
		f.Add([]byte(l.registries), "docker.io/team/app:1")
	}
	f.Fuzz(func(t *testing.T, data []byte, ref string) {
		file, err := parseRegistries("/etc/registries.conf", data)
		parsed, refErr := parseReference(ref)
		if err != nil || refErr != nil {
			return
		}
		for _, table := range file.Registry {
			n, ok := matchPrefix(table.Prefix, parsed)
			if !ok {
				continue
			}
			all, err := registryMatch{found: true, table: table, rest: parsed.name()[n:]}.endpoints(parsed, false)
			if err == nil {
				checkEndpoints(t, all)
			}
		}
	})
}

// checkEndpoints fails when a server could be anything but a host with a path.
func checkEndpoints(t *testing.T, all []endpoint) {
	t.Helper()
	for i := range all {
		all[i].finish()
		e := all[i]
		if !validHost.MatchString(e.address) || e.Repository == "" || len(e.schemes) == 0 {
			t.Fatalf("%+v", e)
		}
		s := Open(Config{HostDirs: []string{}, Registries: []string{}}).newSession(e, nil)
		req, err := s.build(t.Context(), request{method: http.MethodGet, path: "manifests/1"})
		if err != nil || req.URL.Host != e.address {
			t.Fatalf("%+v: %v", e, err)
		}
	}
}

// Whatever a registry's challenge, words and headers are, the error is an Error without commands for a terminal.
func FuzzAnswers(f *testing.F) {
	f.Add(`Bearer realm="https://x/token",service="x"`, `{"errors":[{"code":"A","message":"b"}]}`, 401, "7")
	f.Add(`Basic realm="x"`, htmlPage, 403, "Thu, 01 Jan 1970 00:01:00 GMT")
	f.Add(`bearer , realm=,"`, "\x1b[2J", 429, "-1")
	f.Add(`Bearer realm="http://127.0.0.1/",error="insufficient_scope"`, "", 200, "")
	f.Fuzz(func(t *testing.T, challenge, body string, status int, after string) {
		if status < 200 || status > 599 {
			return
		}
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", challenge)
			w.Header().Set("Retry-After", after)
			w.WriteHeader(status)
			w.Write([]byte(body))
		}))
		defer s.Close()
		c := Open(Config{HostDirs: []string{}, Registries: []string{}, Stall: time.Second, Attempts: 1})
		r, err := c.Repository(strings.TrimPrefix(s.URL, "http://")+"/a/b:1", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		d, raw, err := r.Manifest(t.Context(), "1")
		if err == nil {
			if h, _, hashErr := v1.SHA256(bytes.NewReader(raw)); hashErr != nil || d.Digest != h ||
				status != http.StatusOK {
				t.Fatalf("%d: %v", status, d)
			}
			return
		}
		if e := failure(t, err); e.Kind == "" || e.Reason == "" || strings.ContainsAny(err.Error(),
			"\x1b\x00\n\u202e") {
			t.Fatalf("%+v: %q", e, err)
		}
	})
}

func FuzzSaid(f *testing.F) {
	f.Add("a\x1b[2J\u202e\xff  b")
	f.Fuzz(func(t *testing.T, text string) {
		if got := said(text); len(got) > maxText || strings.ContainsAny(got, "\x1b\x00\n\t\u202e\u200f") ||
			said(got) != got && len(got) < maxText/4 {
			t.Fatalf("%q", got)
		}
	})
}
