package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"os"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"go.uber.org/goleak"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/internal/registrytest"
)

// Addresses of this machine that are not loopback's, by their kinds.
const (
	publicAddress  = "198.51.100.7"
	privateAddress = "10.99.0.7"
	localAddress   = "169.254.7.7"
)

func TestMain(m *testing.M) {
	kerntest.NetMain(m, func(m *testing.M) { goleak.VerifyTestMain(m) }, publicAddress+"/32", privateAddress+"/32",
		localAddress+"/32")
}

// shelf is an image as a Content.
type shelf struct {
	d         v1.Descriptor
	raw       []byte
	blobs     map[v1.Hash][]byte
	knownIn   []string
	referrers []Content
	opened    func(v1.Hash) io.ReadCloser // in place of the blobs; nil result: the blob
}

func (s *shelf) Manifest() (v1.Descriptor, []byte) { return s.d, s.raw }
func (s *shelf) KnownIn(v1.Hash) []string          { return s.knownIn }
func (s *shelf) Referrers() []Content              { return s.referrers }

func (s *shelf) Blob(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	if s.opened != nil {
		if r := s.opened(d.Digest); r != nil {
			return r, nil
		}
	}
	data, ok := s.blobs[d.Digest]
	if !ok {
		return nil, errors.New("there is no such blob")
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// layer is the descriptor of the first layer.
func (s *shelf) layer(t testing.TB) v1.Descriptor {
	t.Helper()
	m, err := v1.ParseManifest(bytes.NewReader(s.raw))
	if err != nil {
		t.Fatal(err)
	}
	return m.Layers[0]
}

// newShelf makes an image with layers of a size.
func newShelf(t testing.TB, size int64, layers int64) *shelf {
	t.Helper()
	img, err := random.Image(size, layers)
	if err != nil {
		t.Fatal(err)
	}
	return shelfOf(t, img)
}

func shelfOf(t testing.TB, img v1.Image) *shelf {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	raw, err := img.RawManifest()
	must(err)
	s := &shelf{raw: raw, blobs: map[v1.Hash][]byte{}}
	s.d.Digest, s.d.Size, err = v1.SHA256(bytes.NewReader(raw))
	must(err)
	s.d.MediaType, err = img.MediaType()
	must(err)
	config, err := img.ConfigName()
	must(err)
	s.blobs[config], err = img.RawConfigFile()
	must(err)
	layers, err := img.Layers()
	must(err)
	for _, l := range layers {
		r, err := l.Compressed()
		must(err)
		data, err := io.ReadAll(r)
		must(err)
		must(r.Close())
		h, err := l.Digest()
		must(err)
		s.blobs[h] = data
	}
	return s
}

// host is what a test sets up on this machine.
type host struct {
	t    testing.TB
	dir  string // of folders of hosts
	conf string // registries.conf
	*Client
}

// newHost makes a client that does not pause.
func newHost(t testing.TB) *host {
	t.Helper()
	dir := t.TempDir()
	h := &host{t: t, dir: dir + "/certs.d", conf: dir + "/registries.conf"}
	h.Client = Open(Config{HostDirs: []string{h.dir}, Registries: []string{h.conf}, Stall: await.Patience / 2,
		Attempts: 3, Pause: time.Millisecond})
	return h
}

// impatient waits no longer for a server than a test can.
func (h *host) impatient() { h.stall = 300 * time.Millisecond }

// trusts puts a server's CA where it belongs.
func (h *host) trusts(s *registrytest.Server) {
	h.t.Helper()
	registrytest.Write(h.t, s.CA.PEM, h.dir, s.Host, "ca.crt")
}

// hosts writes a hosts.toml.
func (h *host) hosts(name, text string) {
	h.t.Helper()
	registrytest.Write(h.t, []byte(text), h.dir, name, "hosts.toml")
}

// registries writes the registries.conf.
func (h *host) registries(text string) {
	h.t.Helper()
	if err := os.WriteFile(h.conf, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// repository opens one, which is closed at the test's end.
func (h *host) repository(ref string, creds ...Credential) *Repository {
	h.t.Helper()
	r, err := h.Repository(ref, creds)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(r.Close)
	return r
}

// push puts an image into a registry that lets everybody in.
func (h *host) push(ref string, s *shelf, creds ...Credential) {
	h.t.Helper()
	tag := ref[strings.LastIndex(ref, ":")+1:]
	if got, size, err := h.repository(ref, creds...).Push(h.t.Context(), tag, s, nil); err != nil ||
		got != s.d.Digest || size != s.d.Size {
		h.t.Fatalf("push %s: %s of %d bytes: %v", ref, got, size, err)
	}
}

// read reads a blob from an offset.
func read(t testing.TB, r *Repository, d v1.Descriptor, offset int64) ([]byte, error) {
	t.Helper()
	b, err := r.Blob(t.Context(), d, offset)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(b)
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	return data, err
}

// pulls compares all of an image with what a repository gives.
func pulls(t testing.TB, r *Repository, ref string, s *shelf) {
	t.Helper()
	d, raw, err := r.Manifest(t.Context(), ref)
	if err != nil || !bytes.Equal(raw, s.raw) || d.Digest != s.d.Digest || d.MediaType != s.d.MediaType {
		t.Fatalf("manifest %s: %v: %v", ref, d, err)
	}
	for h, want := range s.blobs {
		got, err := read(t, r, v1.Descriptor{Digest: h, Size: int64(len(want))}, 0)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("blob %s: %d bytes of %d: %v", h, len(got), len(want), err)
		}
	}
}

// failure is an error as an *Error.
func failure(t testing.TB, err error) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("%T is no *Error: %v", err, err)
	}
	return e
}

func discard() *log.Logger { return log.New(io.Discard, "", 0) }

func serverTLS(cert tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{cert}}
}

var errEnough = errors.New("enough")

// contextUntil is a context that ends with errEnough when something holds.
func contextUntil(t *testing.T, ok func() bool) (context.Context, func()) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		await.Holds(ok)
		cancel(errEnough)
	}()
	return ctx, func() { cancel(nil); <-done }
}

// slowReader gives a piece at a time.
type slowReader struct {
	*bytes.Reader
	step  int
	pause time.Duration
}

func (s *slowReader) Read(p []byte) (int, error) {
	timer := time.NewTimer(s.pause)
	defer timer.Stop()
	<-timer.C
	return s.Reader.Read(p[:min(len(p), s.step)])
}

func (s *slowReader) Close() error { return nil }
