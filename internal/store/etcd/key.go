package etcd

import (
	"errors"
	"strings"

	"github.com/vethloom/vethloom/cnm"
)

const hexDigits = "0123456789ABCDEF"

// errKey is that of a key that this package did not write.
var errKey = errors.New("the key is not a record's")

// escape keeps printable ASCII but for the percent sign, and the slash if asked to. What it makes
// of a text starts with what it makes of the text's start.
func escape(s string, slash bool) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || c == '%' || c == '/' && !slash {
			b.WriteByte('%')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

func unescape(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", errKey
		}
		high, low := strings.IndexByte(hexDigits, s[i+1]), strings.IndexByte(hexDigits, s[i+2])
		if high < 0 || low < 0 {
			return "", errKey
		}
		b.WriteByte(byte(high<<4 | low))
		i += 2
	}
	return b.String(), nil
}

// dir is where the records of the kind are.
func (s *Store) dir(kind cnm.Kind) string { return s.core.root + escape(string(kind), false) + "/" }

func (s *Store) path(k cnm.Key) string { return s.dir(k.Kind) + escape(k.ID, true) }

// key is the record that an etcd key is.
func (c *core) key(path string) (cnm.Key, error) {
	rest, ok := strings.CutPrefix(path, c.root)
	if !ok {
		return cnm.Key{}, errKey
	}
	first, second, ok := strings.Cut(rest, "/")
	kind, kindErr := unescape(first)
	id, idErr := unescape(second)
	if !ok || kindErr != nil || idErr != nil || kind == "" || id == "" {
		return cnm.Key{}, errKey
	}
	return cnm.Key{Kind: cnm.Kind(kind), ID: id}, nil
}
