package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// The file format of bbolt, version 2, in the machine's byte order: pages of a
// header and either a meta record, a sorted list of keys with values or child
// pages, or the list of free pages.
const (
	pageHeader = 16
	elemSize   = 16
	metaSize   = 64
	metaMagic  = 0xED0CDAED
	metaFormat = 2

	flagBranch = 0x01
	flagLeaf   = 0x02
	flagFree   = 0x10

	elemBucket = 0x01
	bucketSize = 16
	noFreelist = ^uint64(0)

	maxDepth    = 32
	maxPageSize = 1 << 16
)

// errEmpty says that a file holds nothing at all, as after a crash right
// behind its creation.
var errEmpty = errors.New("the file is empty")

// contents is what verify learns of a file.
type contents struct {
	boot    string
	format  string
	records int
}

// verifier reads a file without mapping it, so that whatever the file holds
// is an error and never a fault.
type verifier struct {
	f        io.ReaderAt
	pageSize int
	pages    uint64 // high-water mark
	seen     map[uint64]bool
	found    contents
}

// verify checks every page that is reachable, and every record's checksum.
func verify(path string) (contents, error) {
	f, err := os.Open(path)
	if err != nil {
		return contents{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return contents{}, err
	}
	if info.Size() == 0 {
		return contents{}, errEmpty
	}
	v := &verifier{f: f, seen: map[uint64]bool{0: true, 1: true}}
	root, free, err := v.meta(info.Size())
	if err != nil {
		return contents{}, err
	}
	if err := v.freelist(free); err != nil {
		return contents{}, err
	}
	if err := v.tree(root, "", 0); err != nil {
		return contents{}, err
	}
	return v.found, nil
}

// meta chooses the newer of the valid meta pages, as bbolt does, and holds the
// file's size against it.
func (v *verifier) meta(size int64) (root, free uint64, err error) {
	var best []byte
	first := make([]byte, pageHeader+metaSize)
	for _, at := range []int64{0, int64(os.Getpagesize())} {
		b := make([]byte, pageHeader+metaSize)
		if _, err := v.f.ReadAt(b, at); err != nil {
			continue
		}
		if at == 0 {
			copy(first, b)
		}
		if m := b[pageHeader:]; validMeta(m) &&
			(best == nil || binary.NativeEndian.Uint64(m[48:]) > binary.NativeEndian.Uint64(best[48:])) {
			best = m
		}
	}
	if best == nil {
		return 0, 0, fmt.Errorf("no valid meta page; it begins with % x", first[:16])
	}
	v.pageSize = int(binary.NativeEndian.Uint32(best[8:]))
	v.pages = binary.NativeEndian.Uint64(best[40:])
	if v.pageSize != os.Getpagesize() || v.pageSize > maxPageSize {
		return 0, 0, fmt.Errorf("its page size is %d, this machine's %d", v.pageSize, os.Getpagesize())
	}
	if v.pages > uint64(size)/uint64(v.pageSize) {
		return 0, 0, fmt.Errorf("truncated: it has %d bytes and should have %d", size, v.pages*uint64(v.pageSize))
	}
	return binary.NativeEndian.Uint64(best[16:]), binary.NativeEndian.Uint64(best[32:]), nil
}

func validMeta(m []byte) bool {
	if binary.NativeEndian.Uint32(m) != metaMagic || binary.NativeEndian.Uint32(m[4:]) != metaFormat {
		return false
	}
	sum := fnv.New64a()
	sum.Write(m[:56])
	return sum.Sum64() == binary.NativeEndian.Uint64(m[56:])
}

// page reads a page with its overflow and checks its header.
func (v *verifier) page(id uint64) (flags uint16, count int, b []byte, err error) {
	bad := func(format string, args ...any) (uint16, int, []byte, error) {
		return 0, 0, nil, fmt.Errorf("page %d: %s", id, fmt.Sprintf(format, args...))
	}
	if id < 2 || id >= v.pages {
		return bad("there are only %d", v.pages)
	}
	head := make([]byte, pageHeader)
	if _, err := v.f.ReadAt(head, int64(id)*int64(v.pageSize)); err != nil {
		return bad("%v", err)
	}
	if own := binary.NativeEndian.Uint64(head); own != id {
		return bad("it says it is page %d", own)
	}
	overflow := uint64(binary.NativeEndian.Uint32(head[12:]))
	if id+overflow >= v.pages {
		return bad("it goes on behind the end of the file")
	}
	for i := id; i <= id+overflow; i++ {
		if v.seen[i] {
			return bad("used twice")
		}
		v.seen[i] = true
	}
	b = make([]byte, (overflow+1)*uint64(v.pageSize))
	if _, err := v.f.ReadAt(b, int64(id)*int64(v.pageSize)); err != nil {
		return bad("%v", err)
	}
	return binary.NativeEndian.Uint16(head[8:]), int(binary.NativeEndian.Uint16(head[10:])), b, nil
}

func (v *verifier) freelist(id uint64) error {
	if id == noFreelist {
		return nil
	}
	flags, count, b, err := v.page(id)
	if err != nil {
		return fmt.Errorf("free pages: %w", err)
	}
	if flags != flagFree {
		return fmt.Errorf("page %d: flags %#x, not those of a list of free pages", id, flags)
	}
	ids := b[pageHeader:]
	if count == 0xFFFF {
		n := binary.NativeEndian.Uint64(ids)
		if n > v.pages {
			return fmt.Errorf("page %d: %d free pages of %d", id, n, v.pages)
		}
		count, ids = int(n), ids[8:]
	}
	if count*8 > len(ids) {
		return fmt.Errorf("page %d: %d free pages do not fit", id, count)
	}
	for i := range count {
		p := binary.NativeEndian.Uint64(ids[i*8:])
		if p < 2 || p >= v.pages || v.seen[p] {
			return fmt.Errorf("page %d: page %d cannot be free", id, p)
		}
		v.seen[p] = true
	}
	return nil
}

// tree checks the pages of a bucket.
func (v *verifier) tree(id uint64, bucket string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("page %d: more than %d levels", id, maxDepth)
	}
	flags, count, b, err := v.page(id)
	if err != nil {
		return err
	}
	if flags != flagBranch && flags != flagLeaf || flags == flagBranch && count == 0 {
		return fmt.Errorf("page %d: flags %#x, %d entries", id, flags, count)
	}
	if err := v.entries(flags, count, b, bucket, depth); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// entries checks what a branch or leaf page holds.
func (v *verifier) entries(flags uint16, count int, b []byte, bucket string, depth int) error {
	if pageHeader+count*elemSize > len(b) {
		return fmt.Errorf("%d entries do not fit", count)
	}
	var last []byte
	for i := range count {
		at := pageHeader + i*elemSize
		e := b[at : at+elemSize]
		word := func(n int) uint64 { return uint64(binary.NativeEndian.Uint32(e[n*4:])) }
		pos, ksize, vsize := word(0), word(1), uint64(0)
		if flags == flagLeaf {
			pos, ksize, vsize = word(1), word(2), word(3)
		}
		start := uint64(at) + pos
		if start < uint64(pageHeader+count*elemSize) || start+ksize+vsize > uint64(len(b)) {
			return fmt.Errorf("entry %d is outside of it", i)
		}
		key, value := b[start:start+ksize], b[start+ksize:start+ksize+vsize]
		if i > 0 && bytes.Compare(last, key) >= 0 {
			return fmt.Errorf("entry %d is out of order", i)
		}
		last = key
		if err := v.entry(flags, e, key, value, bucket, depth); err != nil {
			return err
		}
	}
	return nil
}

func (v *verifier) entry(flags uint16, e, key, value []byte, bucket string, depth int) error {
	switch {
	case flags == flagBranch:
		return v.tree(binary.NativeEndian.Uint64(e[8:]), bucket, depth+1)
	case binary.NativeEndian.Uint32(e)&elemBucket == 0:
		return v.pair(bucket, key, value)
	case len(value) < bucketSize:
		return fmt.Errorf("bucket %q has a header of %d bytes", key, len(value))
	}
	name := bucket + "/" + string(key)
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return v.tree(root, name, depth+1)
	}
	inline := value[bucketSize:]
	if len(inline) < pageHeader || binary.NativeEndian.Uint16(inline[8:]) != flagLeaf {
		return fmt.Errorf("bucket %q has no page in it", key)
	}
	return v.entries(flagLeaf, int(binary.NativeEndian.Uint16(inline[10:])), inline, name, depth+1)
}

// pair looks at what the store itself has written.
func (v *verifier) pair(bucket string, key, value []byte) error {
	switch bucket {
	case "/" + bucketMeta:
		switch string(key) {
		case keyBoot:
			v.found.boot = string(value)
		case keyFormat:
			v.found.format = string(value)
		}
	case "/" + bucketRecords:
		r, err := decodeRecord(key, value)
		if err != nil {
			return fmt.Errorf("record %q: %w", key, err)
		}
		if r.Revision == 0 {
			return fmt.Errorf("record %q: revision 0", key)
		}
		v.found.records++
	}
	return nil
}
