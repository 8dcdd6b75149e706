package sample

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Registry gives images of a shelf.
type Registry struct {
	Host string // address:port

	server *http.Server
	ended  chan error

	mu      sync.Mutex
	fetched map[string]bool
}

// Serve starts a registry that has the images.
func (s *Shelf) Serve(ctx context.Context, l net.Listener, images ...Image) (*Registry, error) {
	r := &Registry{Host: l.Addr().String(), ended: make(chan error, 1), fetched: map[string]bool{}}
	answer := registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithBlobHandler(blobs{s}))
	for _, img := range images {
		if err := put(ctx, answer, img); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	r.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") {
			r.mu.Lock()
			r.fetched[req.URL.Path[strings.LastIndex(req.URL.Path, "/")+1:]] = true
			r.mu.Unlock()
		}
		answer.ServeHTTP(w, req)
	})}
	go func() { r.ended <- r.server.Serve(l) }()
	return r, nil
}

// Close ends the registry.
func (r *Registry) Close() error {
	err := r.server.Close()
	if ended := <-r.ended; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}

// Name is an image's name with the registry.
func (r *Registry) Name(i Image) string { return r.Host + "/" + i.Repository + ":latest" }

// Missed is how many layers of an image nobody has fetched since the last call.
func (r *Registry) Missed(i Image) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	missed := 0
	for _, l := range i.Layers {
		if !r.fetched[l.Blob.Digest.String()] {
			missed++
		}
	}
	clear(r.fetched)
	return missed
}

// put gives a manifest to a registry, without a network.
func put(ctx context.Context, answer http.Handler, i Image) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "/v2/"+i.Repository+"/manifests/latest",
		bytes.NewReader(i.manifest))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", string(i.Manifest.MediaType))
	got := &status{header: http.Header{}}
	answer.ServeHTTP(got, req)
	if got.code != http.StatusCreated {
		return fmt.Errorf("put image %s into the registry: status %d: %s", i.Repository, got.code, &got.body)
	}
	return nil
}

// status is an answer that stays here.
type status struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (s *status) Header() http.Header         { return s.header }
func (s *status) Write(b []byte) (int, error) { return s.body.Write(b) }
func (s *status) WriteHeader(code int)        { s.code = code }

// blobs gives blobs as they are: what go-containerregistry has for a directory digests each before it answers, and the
// engines would wait for that.
type blobs struct{ *Shelf }

func (b blobs) Stat(_ context.Context, _ string, h v1.Hash) (int64, error) {
	info, err := os.Stat(b.blob(h))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, registry.ErrNotFound
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (b blobs) Get(_ context.Context, _ string, h v1.Hash) (io.ReadCloser, error) {
	f, err := os.Open(b.blob(h))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, registry.ErrNotFound
	}
	return f, err
}
