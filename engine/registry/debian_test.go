package registry

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/registrytest"
)

// Debian's registry, with TLS and a password, and without either.
func TestARealRegistry(t *testing.T) {
	for name, o := range map[string]registrytest.DebianOptions{
		"plain":            {},
		"TLS and password": {TLS: true, User: "alice", Password: "secret word"},
		"another address":  {Address: publicAddress, TLS: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := registrytest.Debian(t, o)
			h := newHost(t)
			if p.CA != nil {
				registrytest.Write(t, p.CA.PEM, h.dir, p.Host, "ca.crt")
			}
			cred := Credential{Host: p.Host, Username: o.User, Password: o.Password}
			img := newShelf(t, 3_000_000, 3)
			h.push(p.Host+"/team/app:1", img, cred)
			pulls(t, h.repository(p.Host+"/team/app:1", cred), "1", img)
			pulls(t, h.repository(p.Host+"/team/app@"+img.d.Digest.String(), cred), img.d.Digest.String(), img)
			d := img.layer(t)
			got, err := read(t, h.repository(p.Host+"/team/app:1", cred), d, d.Size-10)
			if err != nil || len(got) != 10 {
				t.Errorf("the end of a layer: %d bytes: %v", len(got), err)
			}
			_, _, err = h.repository(p.Host+"/team/app:2", cred).Manifest(t.Context(), "2")
			if !errors.Is(err, cnm.ErrNotFound) || failure(t, err).Code != "MANIFEST_UNKNOWN" {
				t.Errorf("a tag that is not there: %v", err)
			}
			if err := h.Login(t.Context(), cred); err != nil {
				t.Errorf("log in: %v", err)
			}
			if o.User == "" {
				return
			}
			wrong := Credential{Host: p.Host, Username: o.User, Password: "wrong"}
			for _, err := range []error{h.Login(t.Context(), wrong), h.Login(t.Context(), Credential{Host: p.Host}),
				pullError(t, h, p.Host+"/team/app:1"), pullError(t, h, p.Host+"/team/app:1", wrong)} {
				if e := failure(t, err); e.Kind != KindUnauthorized || !errors.Is(err, cnm.ErrForbidden) {
					t.Errorf("with a wrong password, or none: %v", err)
				}
			}
		})
	}
}

func pullError(t *testing.T, h *host, ref string, creds ...Credential) error {
	t.Helper()
	_, _, err := h.repository(ref, creds...).Manifest(t.Context(), "1")
	return err
}

// What has referrers is pushed with them, to a registry that does not know the API.
func TestARealRegistryKeepsReferrersByTheirTag(t *testing.T) {
	p := registrytest.Debian(t, registrytest.DebianOptions{})
	h := newHost(t)
	img := newShelf(t, 1000, 1)
	first, second := referrerOf(t, img, "application/x.signature"), referrerOf(t, img, "application/x.contents")
	img.referrers = []Content{first, second}
	for range 2 { // nothing is listed twice
		h.push(p.Host+"/team/app:1", img)
	}
	r := h.repository(p.Host + "/team/app:1")
	all, err := r.Referrers(t.Context(), img.d.Digest)
	if err != nil || len(all) != 2 || all[0].Digest != first.d.Digest ||
		all[1].ArtifactType != "application/x.contents" {
		t.Fatalf("%v: %v", all, err)
	}
	pulls(t, r, first.d.Digest.String(), first)
}

// A pull-through mirror of Debian's registry is asked first, and has the image afterwards.
func TestARealMirror(t *testing.T) {
	p := registrytest.Debian(t, registrytest.DebianOptions{})
	h := newHost(t)
	img := newShelf(t, 10_000, 1)
	h.push(p.Host+"/team/app:1", img)
	mirror := registrytest.Debian(t, registrytest.DebianOptions{Proxy: p.URL})
	h.hosts(p.Host, "server = \""+p.URL+"\"\n[host.\""+mirror.URL+"\"]\ncapabilities = [\"pull\", \"resolve\"]\n")
	pulls(t, h.repository(p.Host+"/team/app:1"), "1", img)
	blob := func(h v1.Hash) string {
		return filepath.Join(mirror.Dir, "docker/registry/v2/blobs/sha256", h.Hex[:2], h.Hex, "data")
	}
	if _, err := os.Stat(blob(img.d.Digest)); err != nil {
		t.Errorf("the mirror was not asked: %v", err)
	}
}
