package registry

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"

	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/internal/registrytest"
)

// breaks are the ways a transfer of a blob can break.
var breaks = map[string]registrytest.Fault{
	"cut":              {Cut: true},
	"reset":            {Reset: true},
	"stall":            {Stall: true},
	"cut, no length":   {Cut: true, Unsized: true},
	"cut, no ranges":   {Cut: true, IgnoreRange: true},
	"stall, no ranges": {Stall: true, IgnoreRange: true},
}

// A blob that breaks at each quarter is whole in the end, over HTTP/1.1 and HTTP/2.
func TestABlobGoesOnAtEachQuarter(t *testing.T) {
	img := newShelf(t, 200_000, 1)
	d := img.layer(t)
	for name, fault := range breaks {
		for _, http2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/http2=%t", name, http2), func(t *testing.T) {
				s := registrytest.Serve(t, registrytest.Options{TLS: true, HTTP2: http2})
				h := newHost(t)
				h.trusts(s)
				h.push(s.Host+"/a/b:1", img)
				if fault.Stall {
					h.impatient()
				}
				quarter := d.Size / 4
				for i := range int64(4) {
					f := fault
					f.Path, f.Method, f.Times, f.At = d.Digest.String(), http.MethodGet, 1, quarter
					if f.IgnoreRange { // each answer begins at the blob's beginning
						f.At = quarter * (i + 1)
					}
					if i == 3 {
						f.At = 0 // not a byte of the rest
					}
					s.Fail(f)
				}
				r := h.repository(s.Host + "/a/b:1")
				retried := 0
				r.Report = func(p image.Progress) {
					if p.Action == image.ActionRetrying && p.Part == d.Digest.String() && p.Text != "" {
						retried++
					}
				}
				got, err := read(t, r, d, 0)
				if err != nil || !bytes.Equal(got, img.blobs[d.Digest]) {
					t.Fatalf("%d bytes of %d: %v", len(got), d.Size, err)
				}
				if n := s.Asked(http.MethodGet, d.Digest.String()); n < 5 {
					t.Errorf("it was asked for %d times: the faults were not committed", n)
				}
				if name == "stall" && retried == 0 {
					t.Error("nobody was told")
				}
			})
		}
	}
}

// A transfer that was begun another time goes on, whether the server knows ranges or not.
func TestABlobBeginsAtAnOffset(t *testing.T) {
	s := registrytest.Serve(t, registrytest.Options{})
	h := newHost(t)
	img := newShelf(t, 50_000, 1)
	h.push(s.Host+"/a/b:1", img)
	d := img.layer(t)
	r := h.repository(s.Host + "/a/b:1")
	for _, ignored := range []bool{false, true} {
		if ignored {
			s.Fail(registrytest.Fault{Path: d.Digest.String(), IgnoreRange: true})
		}
		for _, offset := range []int64{0, 1, d.Size / 2, d.Size - 1, d.Size} {
			got, err := read(t, r, d, offset)
			if err != nil || !bytes.Equal(got, img.blobs[d.Digest][offset:]) {
				t.Errorf("from %d, ranges ignored: %t: %d bytes: %v", offset, ignored, len(got), err)
			}
		}
	}
	for _, offset := range []int64{-1, d.Size + 1} {
		if _, err := r.Blob(t.Context(), d, offset); err == nil {
			t.Errorf("an offset of %d is taken", offset)
		}
	}
}

// A server that refuses a range is asked for all of the blob.
func TestABlobGoesOnWithoutRanges(t *testing.T) {
	s := registrytest.Serve(t, registrytest.Options{})
	h := newHost(t)
	img := newShelf(t, 50_000, 1)
	h.push(s.Host+"/a/b:1", img)
	d := img.layer(t)
	for i := range int64(3) {
		s.Fail(registrytest.Fault{Path: d.Digest.String(), Method: http.MethodGet, Times: 1, Cut: true,
			At: d.Size / 4 * (i + 1), IgnoreRange: true})
		if i == 0 {
			s.Fail(registrytest.Fault{Path: d.Digest.String(), Method: http.MethodGet, Times: 1, Status: 416,
				Header: http.Header{"Content-Range": {fmt.Sprintf("bytes */%d", d.Size)}}})
		}
	}
	s.Fail(registrytest.Fault{Path: d.Digest.String(), Method: http.MethodGet, IgnoreRange: true})
	got, err := read(t, h.repository(s.Host+"/a/b:1"), d, 0)
	if err != nil || !bytes.Equal(got, img.blobs[d.Digest]) {
		t.Fatalf("%d bytes of %d: %v", len(got), d.Size, err)
	}
}

// Attempts that bring nothing are counted, those that bring something are not.
func TestABlobGivesUp(t *testing.T) {
	s := registrytest.Serve(t, registrytest.Options{})
	h := newHost(t)
	img := newShelf(t, 50_000, 1)
	h.push(s.Host+"/a/b:1", img)
	d := img.layer(t)
	s.Fail(registrytest.Fault{Path: d.Digest.String(), Method: http.MethodGet, Times: 20, Cut: true, At: 1000})
	s.Fail(registrytest.Fault{Path: d.Digest.String(), Method: http.MethodGet, Cut: true})
	got, err := read(t, h.repository(s.Host+"/a/b:1"), d, 0)
	if e := failure(t, err); e.Kind != KindBroken || len(got) != 20_000 {
		t.Errorf("%d bytes: %v", len(got), err)
	}
	if n := s.Asked(http.MethodGet, d.Digest.String()); n != 22 && n != 23 {
		t.Errorf("%d requests", n)
	}
}
