package unpack

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/vethloom/vethloom/cnm"
)

// EntryError says which entry of an archive cannot be unpacked, and why. It
// is a [cnm.ErrInvalid].
type EntryError struct {
	Entry  string // the name as it is in the archive
	Reason string
	Remedy string
}

func (e *EntryError) Error() string {
	msg := fmt.Sprintf("archive entry %q: %s", e.Entry, e.Reason)
	if e.Remedy != "" {
		msg += "; " + e.Remedy
	}
	return msg
}

// Unwrap returns [cnm.ErrInvalid].
func (e *EntryError) Unwrap() error { return cnm.ErrInvalid }

// FormatError says why something is not an archive, or not a whole one. It
// is a [cnm.ErrInvalid].
type FormatError struct {
	Reason string
	Remedy string
}

func (e *FormatError) Error() string {
	if e.Remedy == "" {
		return e.Reason
	}
	return e.Reason + "; " + e.Remedy
}

// Unwrap returns [cnm.ErrInvalid].
func (e *FormatError) Unwrap() error { return cnm.ErrInvalid }

// signatures are those of files that people take for a root filesystem archive.
var signatures = []struct {
	offset int
	magic  string
	what   string
}{
	{0, "\x7fELF", "an ELF executable"},
	{0, "PK\x03\x04", "a zip archive"},
	{0, "hsqs", "a squashfs filesystem"},
	{0, "\xed\xab\xee\xdb", "an RPM package"},
	{0, "!<arch>\n", "an ar archive (a .deb package, perhaps)"},
	{0, "7z\xbc\xaf\x27\x1c", "a 7-Zip archive"},
	{0, "QFI\xfb", "a qcow2 disk image"},
	{0, "070701", "a cpio archive"},
	{0, "\x04\x22\x4d\x18", "lz4-compressed data"},
	{0, "\x1f\x8b", "gzip-compressed data, compressed twice perhaps"},
	{0, "\x28\xb5\x2f\xfd", "zstd-compressed data, compressed twice perhaps"},
	{0, "\xfd7zXZ\x00", "xz-compressed data, compressed twice perhaps"},
	{510, "\x55\xaa", "a disk image with a boot sector"},
}

// What to do about what is no tar.
const (
	makeTar   = "make a tar of the root filesystem, for example with 'tar -C DIR -c .'"
	makeLayer = "have the image made again"
)

// notTar describes what the first bytes of something that is no tar look like.
func notTar(head []byte, remedy string) error {
	if len(head) == 0 {
		return &FormatError{Reason: "is not a tar archive: it is empty",
			Remedy: "check the command that was to write it"}
	}
	for _, s := range signatures {
		if len(head) > s.offset && bytes.HasPrefix(head[s.offset:], []byte(s.magic)) {
			return &FormatError{Reason: "is not a tar archive: it is " + s.what, Remedy: remedy}
		}
	}
	what, _, _ := strings.Cut(http.DetectContentType(head), ";")
	shown := head[:min(len(head), 16)]
	return &FormatError{Reason: fmt.Sprintf("is not a tar archive: it starts with %q and looks like %s", shown, what),
		Remedy: remedy}
}

// DescribeTarError explains why a file cannot be read as a tar. The remedy is for one that is none.
func DescribeTarError(f io.ReaderAt, err error, remedy string) error {
	head := make([]byte, blockSize)
	n, _ := f.ReadAt(head, 0) // what cannot be read is not described
	switch {
	case n < blockSize:
		return notTar(head[:n], remedy)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &FormatError{Reason: "is truncated", Remedy: "fetch or make the archive again"}
	case errors.Is(err, tar.ErrHeader):
		if string(head[257:262]) == "ustar" {
			return &FormatError{Reason: "is damaged: " + err.Error(), Remedy: "fetch or make the archive again"}
		}
		return notTar(head, remedy)
	}
	return err
}
