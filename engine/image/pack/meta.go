package pack

import (
	"archive/tar"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/snapshot"
)

// IDMap is the mapping of a container's user namespace: its IDs 0…Size-1 are the host's from HostID on, which is how
// its files are stored. What is not in the range has no ID in the container.
type IDMap struct {
	HostID uint32
	Size   uint32 // 0: no mapping
}

// nobody is what a user namespace shows of an ID it has not, see user_namespaces(7).
const nobody = 65534

func (m IDMap) id(host uint32) int {
	switch {
	case m.Size == 0:
		return int(host)
	case host >= m.HostID && host-m.HostID < m.Size:
		return int(host - m.HostID)
	}
	return nobody
}

// owner maps a node's owner. The top of a writable layer has the image's owner until the container's first start.
func (m IDMap) owner(n node) (uid, gid int) {
	if m.Size > 0 && n.path == "." && n.st.Uid < m.Size && n.st.Gid < m.Size {
		return int(n.st.Uid), int(n.st.Gid)
	}
	return m.id(n.st.Uid), m.id(n.st.Gid)
}

const (
	capability    = "security.capability"
	accessACL     = "system.posix_acl_access"
	defaultACL    = "system.posix_acl_default"
	overlayPrefix = "trusted.overlay."
	paxXattr      = "SCHILY.xattr."
)

// attributes are a node's extended attributes.
type attributes struct {
	pax        map[string]string // as records of a tar
	opaque     bool
	incomplete string // the attribute of overlayfs by which a part of it is elsewhere
}

// kept reports whether an attribute belongs to the content of an image. The other ones of security are this host's
// labels and signatures.
func kept(name string) bool {
	switch {
	case name == capability, name == accessACL, name == defaultACL:
		return true
	case strings.HasPrefix(name, "user.overlay."), strings.HasPrefix(name, overlayPrefix):
		return false // in a layer, overlayfs could take them for its own
	case name == snapshot.RootMark:
		return false // it is this store's
	}
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.")
}

// attributesOf reads the attributes of what is at a path, or of an open file when fd is not negative.
func (m IDMap) attributesOf(path string, fd int) (a attributes, err error) {
	names, err := readXattr(func(buf []byte) (int, error) {
		if fd >= 0 {
			return unix.Flistxattr(fd, buf)
		}
		return unix.Llistxattr(path, buf)
	})
	if errors.Is(err, unix.ENOTSUP) || gone(err) {
		return a, nil
	}
	if err != nil {
		return a, fmt.Errorf("list attributes: %w", err)
	}
	for name := range strings.SplitSeq(string(names), "\x00") {
		if name == "" || !kept(name) && !strings.HasPrefix(name, overlayPrefix) {
			continue
		}
		value, err := readXattr(func(buf []byte) (int, error) {
			if fd >= 0 {
				return unix.Fgetxattr(fd, name, buf)
			}
			return unix.Lgetxattr(path, name, buf)
		})
		if errors.Is(err, unix.ENODATA) || gone(err) {
			continue
		}
		if err != nil {
			return a, fmt.Errorf("read attribute %s: %w", name, err)
		}
		a.add(name, value, m)
	}
	return a, nil
}

func (a *attributes) add(name string, value []byte, m IDMap) {
	switch name {
	case overlayPrefix + "opaque":
		a.opaque = string(value) == "y"
		return
	case overlayPrefix + "redirect", overlayPrefix + "metacopy":
		a.incomplete = name
		return
	case capability:
		value = m.capability(value)
	case accessACL, defaultACL:
		value = m.acl(value)
	}
	if !kept(name) {
		return
	}
	if a.pax == nil {
		a.pax = map[string]string{}
	}
	// A record's key ends at "=": GNU tar writes it, and what it writes it as, in this way.
	key := strings.NewReplacer("%", "%25", "=", "%3D").Replace(name)
	a.pax[paxXattr+key] = string(value)
}

// readXattr reads a list or value of any length.
func readXattr(read func([]byte) (int, error)) ([]byte, error) {
	buf := make([]byte, 256)
	for {
		n, err := read(buf)
		if errors.Is(err, unix.ERANGE) && len(buf) < 1<<17 {
			buf = make([]byte, 4*len(buf))
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}

// capability converts file capabilities: those that a user namespace's root gave (version 3, with that root's ID on
// the host) are ones of the container's root, and plain when that is its user 0. See capabilities(7).
func (m IDMap) capability(v []byte) []byte {
	const version2, version3, mask, length3 = 0x02000000, 0x03000000, 0xff000000, 24
	if m.Size == 0 || len(v) != length3 {
		return v
	}
	magic := binary.LittleEndian.Uint32(v)
	root := binary.LittleEndian.Uint32(v[length3-4:])
	if magic&mask != version3 || root < m.HostID || root-m.HostID >= m.Size {
		return v
	}
	out := append([]byte(nil), v...)
	if root == m.HostID {
		binary.LittleEndian.PutUint32(out, magic&^mask|version2)
		return out[:length3-4]
	}
	binary.LittleEndian.PutUint32(out[length3-4:], root-m.HostID)
	return out
}

// acl maps the users and groups that an access control list names: 4 bytes of version, then for each entry 2 of its
// kind, 2 of permissions and 4 of the ID. See linux/posix_acl_xattr.h.
func (m IDMap) acl(v []byte) []byte {
	const user, group = 2, 8
	if m.Size == 0 {
		return v
	}
	out := append([]byte(nil), v...)
	for e := out[min(4, len(out)):]; len(e) >= 8; e = e[8:] {
		if kind := binary.LittleEndian.Uint16(e); kind == user || kind == group {
			binary.LittleEndian.PutUint32(e[4:], uint32(m.id(binary.LittleEndian.Uint32(e[4:]))))
		}
	}
	return out
}

// header is a node's entry, without its kind.
func (m IDMap) header(n node, a attributes) *tar.Header {
	uid, gid := m.owner(n)
	return &tar.Header{
		Name: n.path, Mode: int64(n.st.Mode & 0o7777), Uid: uid, Gid: gid, Format: tar.FormatPAX,
		ModTime: time.Unix(n.st.Mtim.Sec, n.st.Mtim.Nsec), PAXRecords: a.pax,
	}
}
