package registry

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/vethloom/vethloom/internal/registrytest"
)

// hasty makes waits short: a server has to bring 100 bytes in a tenth of a second.
func (h *host) hasty() { h.rate, h.window = 1000, 100*time.Millisecond }

// drip is a server that brings a tenth of what it should, and is never silent for long.
func drip(d v1.Descriptor, times int) registrytest.Fault {
	return registrytest.Fault{Path: d.Digest.String(), Method: http.MethodGet, Times: times, Piece: 1,
		Pace: 10 * time.Millisecond}
}

// A connection that brings hardly anything is given up, and the blob goes on from where it is: with another connection,
// by another server, or not at all.
func TestAServerThatDrips(t *testing.T) {
	s, mirror := registrytest.Serve(t, registrytest.Options{}), registrytest.Serve(t, registrytest.Options{})
	h := newHost(t)
	h.hasty()
	img := newShelf(t, 20_000, 1)
	h.push(s.Host+"/a/b:1", img)
	h.push(mirror.Host+"/a/b:1", img)
	d := img.layer(t)
	whole := func(what string) {
		t.Helper()
		got, err := read(t, h.repository(s.Host+"/a/b:1"), d, 0)
		if err != nil || !bytes.Equal(got, img.blobs[d.Digest]) {
			t.Errorf("%s: %d bytes of %d: %v", what, len(got), d.Size, err)
		}
	}
	s.Fail(drip(d, 2))
	whole("after two connections")
	ranged := 0
	for _, r := range s.Requests() {
		if strings.HasPrefix(r.Header.Get("Range"), "bytes=") {
			ranged++
		}
	}
	if n := s.Asked(http.MethodGet, d.Digest.String()); n != 3 || ranged != 2 {
		t.Errorf("%d requests, %d by range", n, ranged)
	}

	s.Fail(drip(d, 0))
	got, err := read(t, h.repository(s.Host+"/a/b:1"), d, 0)
	e := failure(t, err)
	if e.Kind != KindStalled || len(got) == 0 || !strings.Contains(err.Error(), "it is too slow: too little came: ") ||
		!strings.Contains(err.Error(), "where 1000 a second is the least; ") {
		t.Errorf("%d bytes: %v", len(got), err)
	}
	if n := s.Asked(http.MethodGet, d.Digest.String()); n != 3+h.attempts {
		t.Errorf("%d requests", n)
	}

	s.Heal()
	mirror.Fail(drip(d, 0))
	h.hosts(s.Host, "server = \""+s.URL+"\"\n[host.\""+mirror.URL+"\"]\n")
	whole("behind a mirror")
	if n := mirror.Asked(http.MethodGet, d.Digest.String()); n != mirrorAttempts {
		t.Errorf("%d requests of the mirror", n)
	}
}

// A slow server that brings what it has to is waited for.
func TestASlowServerIsWaitedFor(t *testing.T) {
	s := registrytest.Serve(t, registrytest.Options{})
	h := newHost(t)
	h.hasty()
	img := newShelf(t, 3000, 1)
	h.push(s.Host+"/a/b:1", img)
	d := img.layer(t)
	s.Fail(registrytest.Fault{Path: d.Digest.String(), Method: http.MethodGet, Piece: 100, Pace: 10 * time.Millisecond})
	if _, err := read(t, h.repository(s.Host+"/a/b:1"), d, 0); err != nil {
		t.Error(err)
	}
	if n := s.Asked(http.MethodGet, d.Digest.String()); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// What counts is the time that is waited for bytes, and not that of a caller who is slow.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			wait, pause time.Duration
			slow        bool
		}{
			{wait: time.Second}, {pause: time.Hour}, {wait: 2 * time.Second, slow: true},
			{wait: 59 * time.Second, pause: time.Hour, slow: true},
		} {
			var all time.Duration
			p := &pace{ReadCloser: &slowReader{bytes.NewReader(make([]byte, 1<<20)), 1000, c.wait}, rate: 1000,
				window: 30 * time.Second, all: &all}
			var err error
			reads := 0
			for ; reads < 90 && err == nil; reads++ {
				time.Sleep(c.pause)
				_, err = p.Read(make([]byte, 4096))
			}
			if errors.Is(err, errSlow) != c.slow || all != time.Duration(reads)*c.wait {
				t.Errorf("1000 bytes each %s, a read each %s: %v after %d reads, %s waited", c.wait, c.pause, err,
					reads, all)
			}
		}
	})
}

// A server that ends each connection after a byte is not asked forever.
func TestAByteAConnection(t *testing.T) {
	s := registrytest.Serve(t, registrytest.Options{})
	h := newHost(t)
	h.rate = 10 << 20
	img := newShelf(t, 20_000, 1)
	h.push(s.Host+"/a/b:1", img)
	d := img.layer(t)
	s.Fail(registrytest.Fault{Path: d.Digest.String(), Method: http.MethodGet, Cut: true, At: 1})
	got, err := read(t, h.repository(s.Host+"/a/b:1"), d, 0)
	if e := failure(t, err); e.Kind != KindBroken || len(got) != h.attempts {
		t.Errorf("%d bytes: %v", len(got), err)
	}
}

// What is no blob has to come whole within a time, and is short, also in the middle of a blob.
func TestAnswersHaveATime(t *testing.T) {
	img := newShelf(t, 20_000, 1)
	d := img.layer(t)
	drip := registrytest.Fault{Piece: 1, Pace: 10 * time.Millisecond}
	late := "it is too slow: the answer did not come whole in 100ms"
	for _, c := range []struct {
		path  string
		blob  bool // a blob is asked for, and its token has run out
		fault registrytest.Fault
		kind  Kind
		words string
	}{
		{"/manifests/", false, drip, KindStalled, late}, {"/token", false, drip, KindStalled, late},
		{"/v2/", false, drip, KindStalled, late}, {"/token", true, drip, KindStalled, late},
		{"/token", true, registrytest.Fault{Endless: true}, KindContent, "longer than we read"},
	} {
		s := registrytest.Serve(t, registrytest.Options{Bearer: true, User: "alice", Password: "secret"})
		h := newHost(t)
		cred := Credential{Host: s.Host, Username: "alice", Password: "secret"}
		h.push(s.Host+"/a/b:1", img, cred)
		r := h.repository(s.Host+"/a/b:1", cred)
		h.attempts = 1
		if c.blob {
			if _, _, err := r.Manifest(t.Context(), "1"); err != nil {
				t.Fatal(err)
			}
			s.Fail(registrytest.Fault{Path: d.Digest.String(), Method: http.MethodGet, Status: 401,
				Header: http.Header{"Www-Authenticate": {`Bearer realm="` + s.URL + `/token",error="invalid_token"`}}})
		}
		if c.kind == KindStalled {
			h.answer = 100 * time.Millisecond
		}
		c.fault.Path = c.path
		s.Fail(c.fault)
		var err error
		if c.blob {
			_, err = read(t, r, d, 0)
		} else {
			_, _, err = r.Manifest(t.Context(), "1")
		}
		if e := failure(t, err); e.Kind != c.kind || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v", c.path, err)
		}
	}
}
