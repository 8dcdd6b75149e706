package registry

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/registrytest"
)

// three is a registry with three mirrors: nobody is at the first, the second has not the image, the third has it.
type three struct {
	*host
	registry, empty, full *registrytest.Server
	dead                  string
	img                   *shelf
}

func newThree(t *testing.T) *three {
	t.Helper()
	m := &three{host: newHost(t), dead: "127.0.0.1:1", img: newShelf(t, 20_000, 2)}
	m.registry = registrytest.Serve(t, registrytest.Options{Address: publicAddress + ":0", TLS: true,
		Names: []string{publicAddress}})
	m.empty = registrytest.Serve(t, registrytest.Options{})
	m.full = registrytest.Serve(t, registrytest.Options{TLS: true})
	m.trusts(m.registry)
	m.trusts(m.full)
	m.push(m.registry.Host+"/team/app:1", m.img)
	return m
}

func (m *three) byHosts() {
	m.push(m.full.Host+"/team/app:1", m.img)
	m.hosts(m.registry.Host,
		fmt.Sprintf("server = %q\n[host.\"http://%s\"]\n[host.%q]\n[host.%q.header]\nx-team = \"a\"\n",
			m.registry.URL, m.dead, m.empty.URL, m.full.URL))
}

func (m *three) byRegistries() {
	m.push(m.full.Host+"/hub/team/app:1", m.img)
	m.registries(fmt.Sprintf("[[registry]]\nlocation = %q\n[[registry.mirror]]\nlocation = %q\ninsecure = true\n"+
		"[[registry.mirror]]\nlocation = \"%s/x\"\ninsecure = true\n[[registry.mirror]]\nlocation = \"%s/hub\"\n",
		m.registry.Host, m.dead, m.empty.Host, m.full.Host))
}

func TestMirrorsAreAskedInOrder(t *testing.T) {
	for name, set := range map[string]func(*three){"hosts.toml": (*three).byHosts,
		"registries.conf": (*three).byRegistries} {
		t.Run(name, func(t *testing.T) {
			m := newThree(t)
			set(m)
			ref := m.registry.Host + "/team/app:1"
			all, err := m.Endpoints(ref, false)
			var hosts []string
			for _, e := range all {
				hosts = append(hosts, e.Host)
			}
			want := []string{m.dead, m.empty.Host, m.full.Host, m.registry.Host}
			if err != nil || !slices.Equal(hosts, want) || all[3].Mirror || !all[0].Mirror {
				t.Fatalf("%+v: %v", all, err)
			}
			if push, err := m.Endpoints(ref, true); err != nil || len(push) != 1 || push[0].Host != m.registry.Host {
				t.Errorf("push: %+v: %v", push, err)
			}
			asked := len(m.registry.Requests())
			pulls(t, m.repository(ref), "1", m.img)
			if n := len(m.registry.Requests()); n != asked {
				t.Errorf("the registry was asked: %v", m.registry.Requests()[asked:])
			}
			if m.empty.Asked(http.MethodGet, "/manifests/1") == 0 {
				t.Error("the second mirror was not asked")
			}
			if name == "hosts.toml" {
				last := m.full.Requests()[len(m.full.Requests())-1]
				if last.Header.Get("X-Team") != "a" || last.Query != "ns="+strings.ReplaceAll(m.registry.Host, ":",
					"%3A") {
					t.Errorf("%+v", last)
				}
			}
		})
	}
}

// What all say is told when none has it.
func TestEveryMirrorsErrorIsTold(t *testing.T) {
	m := newThree(t)
	m.byHosts()
	m.full.Fail(registrytest.Fault{Path: "/manifests/", Status: 500, Body: "disk full"})
	m.registry.Fail(registrytest.Fault{Path: "/manifests/", Status: 403, Body: registryError("DENIED", "not yours")})
	_, _, err := m.repository(m.registry.Host+"/team/app:1").Manifest(t.Context(), "1")
	e := failure(t, err)
	if e.Host != m.registry.Host || len(e.Mirrors) != 3 || !errors.Is(err, cnm.ErrForbidden) || errors.Is(err,
		cnm.ErrNotFound) {
		t.Errorf("%+v", e)
	}
	for _, want := range []string{"not yours", "disk full", m.dead, "connection refused", m.empty.Host,
		"NAME_UNKNOWN"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing: %v", want, err)
		}
	}
}

// A mirror that breaks in the middle of a blob is left, and the next one goes on from there.
func TestABlobGoesOnAtTheNextEndpoint(t *testing.T) {
	m := newThree(t)
	m.byHosts()
	d := m.img.layer(t)
	m.full.Fail(registrytest.Fault{Path: d.Digest.String(), Times: 1, Cut: true, At: d.Size / 2})
	m.full.Fail(registrytest.Fault{Path: d.Digest.String(), Status: 500})
	got, err := read(t, m.repository(m.registry.Host+"/team/app:1"), d, 0)
	if err != nil || !bytes.Equal(got, m.img.blobs[d.Digest]) {
		t.Fatalf("%d bytes of %d: %v", len(got), d.Size, err)
	}
	last := m.registry.Requests()[len(m.registry.Requests())-1]
	if want := fmt.Sprintf("bytes=%d-%d", d.Size/2, d.Size-1); last.Header.Get("Range") != want {
		t.Errorf("the registry was asked for %q, want %q", last.Header.Get("Range"), want)
	}
}

// A mirror that gives something else for a digest is not believed.
func TestAMirrorCannotChangeAManifest(t *testing.T) {
	m := newThree(t)
	m.byHosts()
	m.full.Fail(registrytest.Fault{Path: "/manifests/sha256", Edit: func(b []byte) []byte { return append(b, '\n') }})
	pulls(t, m.repository(m.registry.Host+"/team/app@"+m.img.d.Digest.String()), m.img.d.Digest.String(), m.img)
	if m.registry.Asked(http.MethodGet, "/manifests/sha256") == 0 {
		t.Error("the registry was not asked")
	}
}

// Each credential goes to its own host.
func TestCredentialsGoToTheirHosts(t *testing.T) {
	h := newHost(t)
	img := newShelf(t, 1000, 1)
	mirror := registrytest.Serve(t, registrytest.Options{User: "m", Password: "mirror's"})
	server := registrytest.Serve(t, registrytest.Options{User: "s", Password: "server's", Bearer: true})
	creds := []Credential{{Host: mirror.Host, Username: "m", Password: "mirror's"},
		{Host: server.Host, Username: "s", Password: "server's"}}
	h.push(server.Host+"/a/b:1", img, creds...)
	h.hosts(server.Host, fmt.Sprintf("server = %q\n[host.%q]\n", server.URL, mirror.URL))
	pulls(t, h.repository(server.Host+"/a/b:1", creds...), "1", img)
	for s, wants := range map[*registrytest.Server][]string{mirror: {"", "Basic"}, server: {"", "Basic", "Bearer"}} {
		for _, r := range s.Requests() {
			auth := r.Header.Get("Authorization")
			kind, _, _ := strings.Cut(auth, " ")
			if !slices.Contains(wants, kind) {
				t.Errorf("%s got %q", s.Host, auth)
			}
			request := http.Request{Header: r.Header}
			if user, _, ok := request.BasicAuth(); ok && (user == "m") != (s == mirror) {
				t.Errorf("%s got the credential of %s", s.Host, user)
			}
		}
	}
	_, _, err := h.repository(server.Host+"/a/b:1").Manifest(t.Context(), "1")
	if e := failure(t, err); e.Kind != KindUnauthorized || !strings.Contains(err.Error(), "net login "+server.Host) {
		t.Errorf("without credentials: %v", err)
	}
}
