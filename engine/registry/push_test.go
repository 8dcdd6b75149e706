package registry

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/internal/registrytest"
)

// reports keeps what is reported.
type reports struct {
	mu  sync.Mutex
	all []image.Progress
}

func (r *reports) add(p image.Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, p)
}

// actions are those of one part, each run of the same once.
func (r *reports) actions(part string) (all []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.all {
		if p.Part == part {
			all = append(all, p.Action)
		}
	}
	return slices.Compact(all)
}

func TestAPushSendsWhatIsNotThere(t *testing.T) {
	s := registrytest.Serve(t, registrytest.Options{})
	h := newHost(t)
	img := newShelf(t, 300_000, 3)
	for round, want := range []string{
		image.ActionWaiting + " " + image.ActionPushing + " " + image.ActionPushed,
		image.ActionWaiting + " " + image.ActionExists,
	} {
		var seen reports
		got, size, err := h.repository(s.Host+"/a/b:1").Push(t.Context(), "1", img, seen.add)
		if err != nil || got != img.d.Digest || size != img.d.Size {
			t.Fatalf("%s of %d bytes: %v", got, size, err)
		}
		for hash, data := range img.blobs {
			if actions := strings.Join(seen.actions(hash.String()), " "); actions != want {
				t.Errorf("round %d, blob %s: %s", round, hash, actions)
			}
			last := seen.all[slices.IndexFunc(seen.all, func(p image.Progress) bool { return p.Part == hash.String() })]
			if last.Total != int64(len(data)) {
				t.Errorf("of %d bytes, where there are %d", last.Total, len(data))
			}
		}
	}
	if n := s.Asked(http.MethodPut, "/blobs/"); n != len(img.blobs) {
		t.Errorf("%d uploads", n)
	}
	pulls(t, h.repository(s.Host+"/a/b:1"), "1", img)
	if _, _, err := h.repository(s.Host+"/a/b:1").Push(t.Context(), "", img, nil); err != nil {
		t.Errorf("by digest alone: %v", err)
	}
	if _, _, err := h.repository(s.Host+"/a/b:1").Push(t.Context(), "a b", img, nil); err == nil {
		t.Error("a malformed tag is taken")
	}
}

// An upload that breaks is begun again; what the store cannot read is not.
func TestAPushIsTriedAgain(t *testing.T) {
	for name, f := range map[string]registrytest.Fault{
		"503": {Status: 503}, "cut": {Cut: true}, "reset": {Reset: true}, "no answer": {NoAnswer: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := registrytest.Serve(t, registrytest.Options{})
			h := newHost(t)
			img := newShelf(t, 300_000, 2)
			if f.NoAnswer {
				h.impatient()
			}
			for _, at := range []string{"/blobs/", "/uploads/", "/manifests/"} {
				f := f
				f.Path, f.Times = at, 1
				s.Fail(f)
			}
			s.Fail(registrytest.Fault{Path: "/blobs/uploads/", Method: http.MethodPut, Times: 1, Status: 500})
			var seen reports
			if _, _, err := h.repository(s.Host+"/a/b:1").Push(t.Context(), "1", img, seen.add); err != nil {
				t.Fatal(err)
			}
			s.Heal()
			pulls(t, h.repository(s.Host+"/a/b:1"), "1", img)
			retried := func(p image.Progress) bool { return p.Action == image.ActionRetrying && p.Text != "" }
			if !slices.ContainsFunc(seen.all, retried) {
				t.Error("nobody was told")
			}
		})
	}
}

func TestAPushOfABlobThatCannotBeRead(t *testing.T) {
	s := registrytest.Serve(t, registrytest.Options{})
	h := newHost(t)
	broken := errors.New("the disk is broken")
	for want, body := range map[string]func(v1.Hash) io.ReadCloser{
		broken.Error(): func(v1.Hash) io.ReadCloser {
			return io.NopCloser(io.MultiReader(strings.NewReader("x"), badReader{broken}))
		},
		"it has 1 bytes": func(v1.Hash) io.ReadCloser { return io.NopCloser(strings.NewReader("x")) },
	} {
		img := newShelf(t, 300_000, 1)
		img.opened = body
		_, _, err := h.repository(s.Host+"/a/b:1").Push(t.Context(), "1", img, nil)
		var e *Error
		if err == nil || !strings.Contains(err.Error(), want) || errors.As(err, &e) {
			t.Errorf("%v", err)
		}
		img.opened, img.blobs = nil, nil
		if _, _, err := h.repository(s.Host+"/a/b:1").Push(t.Context(), "1", img, nil); err == nil ||
			!strings.Contains(err.Error(), "no such blob") {
			t.Errorf("%v", err)
		}
	}
	if n := s.Asked(http.MethodPut, "/manifests/"); n != 0 {
		t.Error("the manifest was sent without its blobs")
	}
}

type badReader struct{ err error }

func (b badReader) Read([]byte) (int, error) { return 0, b.err }

// A registry takes a blob from another repository of its own; where it refuses to, the blob is sent.
func TestAPushTakesFromOtherRepositories(t *testing.T) {
	p := registrytest.Debian(t, registrytest.DebianOptions{User: "alice", Password: "secret"})
	h := newHost(t)
	cred := Credential{Host: p.Host, Username: "alice", Password: "secret"}
	img := newShelf(t, 100_000, 2)
	h.push(p.Host+"/team/base:1", img, cred)
	img.knownIn = []string{"docker.io/library/busybox", p.Host + "/team/gone", p.Host + "/team/base",
		p.Host + "/team/app"}
	var seen reports
	if _, _, err := h.repository(p.Host+"/team/app:1", cred).Push(t.Context(), "1", img, seen.add); err != nil {
		t.Fatal(err)
	}
	for hash := range img.blobs {
		if actions := seen.actions(hash.String()); slices.Contains(actions, image.ActionPushing) ||
			actions[len(actions)-1] != image.ActionMounted {
			t.Errorf("blob %s: %v", hash, actions)
		}
	}
	pulls(t, h.repository(p.Host+"/team/app:1", cred), "1", img)
}

func TestAPushWhereNothingIsTaken(t *testing.T) {
	s := registrytest.Serve(t, registrytest.Options{})
	h := newHost(t)
	img := newShelf(t, 1000, 1)
	img.knownIn = []string{s.Host + "/other"}
	h.push(s.Host+"/a/b:1", img) // go-containerregistry's server begins an upload instead
	pulls(t, h.repository(s.Host+"/a/b:1"), "1", img)
	found := false
	for _, r := range s.Requests() {
		query, err := url.ParseQuery(r.Query)
		found = found || err == nil && query.Get("from") == "other" && query.Get("mount") != ""
	}
	if !found {
		t.Error("the registry was not asked for the other repository's")
	}
}

// A server of tokens that gives none for the other repository is asked again, for one's own.
func TestAPushWithoutATokenForTheOther(t *testing.T) {
	s := registrytest.Serve(t, registrytest.Options{Bearer: true})
	h := newHost(t)
	img := newShelf(t, 1000, 1)
	img.knownIn = []string{s.Host + "/other"}
	s.Fail(registrytest.Fault{Path: "/token", Times: 1, Status: 403, Body: `{"details":"no"}`})
	h.push(s.Host+"/a/b:1", img)
	var scopes []string
	for _, r := range s.Requests() {
		if query, err := url.ParseQuery(r.Query); err == nil && r.Path == "/token" {
			scopes = append(scopes, strings.Join(query["scope"], " "))
		}
	}
	want := "repository:a/b:push,pull"
	if len(scopes) != 2 || scopes[0] != want+" repository:other:pull" || scopes[1] != want {
		t.Errorf("asked for %q", scopes)
	}
	if n := s.Asked(http.MethodPost, "/uploads/"); n != 2 {
		t.Errorf("%d uploads were begun", n)
	}
}

// What a registry refuses is told as it says it, at once.
func TestAPushThatIsRefused(t *testing.T) {
	for path, text := range map[string]string{"/uploads/": "begin the upload of blob",
		"/manifests/": "put the manifest of a/b:1"} {
		s := registrytest.Serve(t, registrytest.Options{})
		h := newHost(t)
		s.Fail(registrytest.Fault{Path: path, Status: 403, Body: registryError("DENIED", "read only")})
		_, _, err := h.repository(s.Host+"/a/b:1").Push(t.Context(), "1", newShelf(t, 1000, 1), nil)
		if e := failure(t, err); e.Kind != KindForbidden || !strings.Contains(err.Error(), text) ||
			!strings.Contains(err.Error(), "read only") {
			t.Errorf("%v", err)
		}
	}
	for location, want := range map[string]Kind{"": KindContent, "http://169.254.169.254/": KindRedirect,
		"file:///x": KindRedirect} {
		s := registrytest.Serve(t, registrytest.Options{})
		h := newHost(t)
		f := registrytest.Fault{Path: "/uploads/", Status: 202}
		if location != "" {
			f.Header = http.Header{"Location": {location}}
		}
		s.Fail(f)
		_, _, err := h.repository(s.Host+"/a/b:1").Push(t.Context(), "1", newShelf(t, 1000, 1), nil)
		if e := failure(t, err); e.Kind != want {
			t.Errorf("%q: %v", location, err)
		}
	}
	for _, path := range []string{"/manifests/", "/uploads/"} {
		s := registrytest.Serve(t, registrytest.Options{})
		h := newHost(t)
		s.Fail(registrytest.Fault{Path: path, Method: http.MethodPut, Status: 303, Redirect: "/v2/"})
		_, _, err := h.repository(s.Host+"/a/b:1").Push(t.Context(), "1", newShelf(t, 1000, 1), nil)
		if e := failure(t, err); e.Kind != KindRedirect || !strings.Contains(err.Error(), "turns PUT into GET") {
			t.Errorf("%s: %v", path, err)
		}
	}
	s := registrytest.Serve(t, registrytest.Options{})
	s.Fail(registrytest.Fault{Method: http.MethodHead, Status: 200, Header: http.Header{"Content-Type": {"text/html"}}})
	_, _, err := newHost(t).repository(s.Host+"/a/b:1").Push(t.Context(), "1", newShelf(t, 1000, 1), nil)
	if e := failure(t, err); e.Kind != KindNoRegistry {
		t.Errorf("a page for each blob: %v", err)
	}
	index := &shelf{raw: []byte(`{"manifests":[]}`)}
	if _, _, err := newHost(t).repository("127.0.0.1:1/a/b").Push(t.Context(), "1", index, nil); err == nil ||
		!strings.Contains(err.Error(), "no manifest") {
		t.Errorf("an index: %v", err)
	}
}

// What takes longer altogether than anybody may be silent is sent all the same.
func TestAPushIsWatchedByItsBytes(t *testing.T) {
	p := registrytest.Debian(t, registrytest.DebianOptions{})
	h := newHost(t)
	img := newShelf(t, 100_000, 1)
	d := img.layer(t)
	opened := 0
	h.stall = time.Second
	img.opened = func(hash v1.Hash) io.ReadCloser {
		if hash != d.Digest {
			return nil
		}
		opened++
		// Three quarters of the patience between any two pieces, and more of it altogether.
		return &slowReader{Reader: bytes.NewReader(img.blobs[hash]), step: int(d.Size)/5 + 1, pause: h.stall * 3 / 4}
	}
	h.push(p.Host+"/a/b:1", img)
	if opened != 1 {
		t.Errorf("it was sent %d times", opened)
	}
}
