package etcd

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/vethloom/vethloom/cnm"
)

func TestKeys(t *testing.T) {
	s := New(nil, "/vethloom/")
	for _, c := range []struct {
		key  cnm.Key
		path string
	}{
		{cnm.Key{Kind: cnm.KindNetwork, ID: "4f2a9c"}, "/vethloom/network/4f2a9c"},
		{cnm.Key{Kind: cnm.KindAddress, ID: "fd00::1/64"}, "/vethloom/address/fd00::1/64"},
		{cnm.Key{Kind: "a/b%", ID: "é \x01%"}, "/vethloom/a%2Fb%25/%C3%A9%20%01%25"},
	} {
		if got := s.path(c.key); got != c.path {
			t.Errorf("%v is %q, want %q", c.key, got, c.path)
		}
	}
	for _, path := range []string{"", "/vethloom/", "/vethloom/network", "/vethloom/network/", "/vethloom//x",
		"/vethlooms/network/x", "/vethloom/network/%4", "/vethloom/network/%zz"} {
		if k, err := s.core.key(path); err == nil {
			t.Errorf("%q is %v", path, k)
		}
	}
}

func TestKeysProperty(t *testing.T) {
	s := New(nil, "/x")
	text := rapid.Custom(func(r *rapid.T) string {
		return string(rapid.SliceOfN(rapid.ByteRange(1, 255), 1, 12).Draw(r, "bytes"))
	})
	rapid.Check(t, func(r *rapid.T) {
		k := cnm.Key{Kind: cnm.Kind(text.Draw(r, "kind")), ID: text.Draw(r, "ID")}
		path := s.path(k)
		if back, err := s.core.key(path); err != nil || back != k {
			r.Fatalf("%q became %q and then %q (%v)", k, path, back, err)
		}
		if !strings.HasPrefix(path, s.dir(k.Kind)+escape(k.ID[:len(k.ID)/2], true)) {
			r.Fatalf("the start of %q is not the start of %q", k.ID, path)
		}
		other := cnm.Key{Kind: cnm.Kind(text.Draw(r, "other kind")), ID: text.Draw(r, "other ID")}
		if other != k && s.path(other) == path {
			r.Fatalf("%q and %q are both %q", k, other, path)
		}
		for _, c := range []byte(path) {
			if c <= ' ' || c >= 0x7f {
				r.Fatalf("%q holds the byte %x", path, c)
			}
		}
	})
}
