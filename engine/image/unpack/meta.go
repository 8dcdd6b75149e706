package unpack

import (
	"archive/tar"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// meta is what an entry carries besides its content.
type meta struct {
	uid, gid int
	mode     uint32
	times    [2]unix.Timespec // of access and of modification
	xattrs   map[string]string
}

const paxXattr = "SCHILY.xattr."

// recordedName reads the names of attributes as GNU tar writes them: a record's key ends at "=".
var recordedName = strings.NewReplacer("%3D", "=", "%25", "%")

// defaultACL is what a directory's new entries inherit, so that it is set when all of them are there.
const defaultACL = "system.posix_acl_default"

// overlayXattrs are overlayfs's own: in an archive they would redirect a
// directory to another, or make layers show what is not in them.
var overlayXattrs = []string{"trusted.overlay.", "user.overlay."}

func isOverlayXattr(name string) bool {
	return slices.ContainsFunc(overlayXattrs, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

func metaOf(hdr *tar.Header) (meta, error) {
	for _, id := range []int{hdr.Uid, hdr.Gid} {
		if id < 0 || int64(id) >= math.MaxUint32 { // the last means "leave alone" to chown(2)
			return meta{}, &EntryError{Entry: hdr.Name,
				Reason: fmt.Sprintf("has an owner that is no user or group ID (%d:%d)", hdr.Uid, hdr.Gid)}
		}
	}
	accessed := hdr.AccessTime
	if accessed.IsZero() {
		accessed = hdr.ModTime
	}
	m := meta{uid: hdr.Uid, gid: hdr.Gid, mode: uint32(hdr.Mode) & 0o7777, times: [2]unix.Timespec{timespec(accessed),
		timespec(hdr.ModTime)}}
	for key, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok {
			continue
		}
		name = recordedName.Replace(name)
		if isOverlayXattr(name) {
			return meta{}, &EntryError{Entry: hdr.Name, Reason: fmt.Sprintf(
				"has the attribute %s, which is overlayfs's own", name),
				Remedy: "make the archive of a mounted root filesystem, not of overlayfs's own directories"}
		}
		if m.xattrs == nil {
			m.xattrs = map[string]string{}
		}
		m.xattrs[name] = value
	}
	return m, nil
}

func timespec(t time.Time) unix.Timespec {
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

// applyTo sets owner, mode and attributes, in that order: a change of owner
// clears the set-ID bits and the file capabilities. What is right already is left
// alone, as each change is one more transaction of the filesystem's journal. The inode's number is returned.
func (u *unpacker) applyTo(fd int, m meta) (ino uint64, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, err
	}
	// directories hand down their group with the set-group-ID bit
	chown := st.Uid != uint32(m.uid) || st.Gid != uint32(m.gid)
	if chown {
		if err := unix.Fchown(fd, m.uid, m.gid); err != nil {
			return 0, fmt.Errorf("set owner to %d:%d: %w", m.uid, m.gid, err)
		}
	}
	if chown || st.Mode&0o7777 != m.mode {
		if err := unix.Fchmod(fd, m.mode); err != nil {
			return 0, fmt.Errorf("set mode to %o: %w", m.mode, err)
		}
	}
	for name, value := range m.xattrs {
		if err := u.keepXattr(name, unix.Fsetxattr(fd, name, []byte(value), 0)); err != nil {
			return 0, err
		}
	}
	return st.Ino, nil
}

// applyAt is applyTo for what cannot be opened: symbolic links and fifos.
func (u *unpacker) applyAt(p place, m meta) error {
	if err := unix.Fchownat(p.dir, p.name, m.uid, m.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set owner to %d:%d: %w", m.uid, m.gid, err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(p.dir, p.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK { // links have no mode of their own
		if err := unix.Fchmodat(p.dir, p.name, m.mode, 0); err != nil {
			return fmt.Errorf("set mode to %o: %w", m.mode, err)
		}
	}
	for name, value := range m.xattrs {
		err := unix.Lsetxattr(fdPath(p.dir)+"/"+p.name, name, []byte(value), 0)
		if err := u.keepXattr(name, err); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(p.dir, p.name, m.times[:], unix.AT_SYMLINK_NOFOLLOW)
}

// keepXattr judges the outcome of setting an attribute. What the filesystem
// cannot keep is counted, but for file capabilities: programs would fail without them.
func (u *unpacker) keepXattr(name string, err error) error {
	if err == nil {
		return nil
	}
	if name != "security.capability" && (errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM)) {
		u.result.LostXattrs++
		return nil
	}
	return fmt.Errorf("set attribute %s: %w", name, err)
}
