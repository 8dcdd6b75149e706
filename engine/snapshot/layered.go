package snapshot

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// addLayer is the option of overlayfs that names one layer, the topmost first. So there may be as many of them as
// overlayfs takes (500), where all options of mount(2) have to fit one page. It is known to fsconfig(2) alone, since
// Linux 6.8; see Documentation/filesystems/overlayfs.rst.
const addLayer = "lowerdir+"

// errNoLayers says that the kernel does not know addLayer.
var errNoLayers = errors.New("the kernel takes no overlay of layers one by one: that needs Linux 6.8 or newer")

// maxString is how long a value given to fsconfig(2) may be, its end included, in bytes.
const maxString = 256

// setting is an option and its value, if it has one.
type setting struct{ key, value string }

// newOverlay makes a mount that is nowhere yet, see fsmount(2): a descriptor of its root, as a path only.
func newOverlay(settings []setting, attr int) (int, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENOSYS) {
		return -1, errNoLayers
	}
	if err != nil {
		return -1, fmt.Errorf("open the overlay file system: %w", err)
	}
	defer unix.Close(fs)
	// Before Linux 6.5, overlayfs looks at the options when all are there: any name is taken until then.
	if unix.FsconfigSetFlag(fs, "no_such_option") == nil {
		return -1, errNoLayers
	}
	heard(fs)
	for _, s := range settings {
		if err := set(fs, s); err != nil {
			return -1, err
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, said(fs, "make an overlay", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return -1, said(fs, "mount an overlay", err)
	}
	return fd, nil
}

func set(fs int, s setting) error {
	if s.value == "" {
		if err := unix.FsconfigSetFlag(fs, s.key); err != nil {
			return said(fs, "set "+s.key+" of an overlay", err)
		}
		return nil
	}
	if len(s.value) >= maxString {
		return fmt.Errorf("set %s of an overlay: %s has %d bytes and may have %d: use a shorter directory for netd's "+
			"state (--root)", s.key, s.value, len(s.value), maxString-1)
	}
	err := unix.FsconfigSetString(fs, s.key, s.value)
	if err == nil {
		return nil
	}
	err = said(fs, "set "+s.key+" of an overlay to "+s.value, err)
	if s.key == addLayer && errors.Is(err, unix.EINVAL) && strings.Contains(err.Error(), "Unknown parameter") {
		return errNoLayers
	}
	return err
}

// said adds to an error what the kernel said about it, which is told once.
func said(fs int, what string, err error) error {
	messages := heard(fs)
	if len(messages) == 0 {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w (%s)", what, err, strings.Join(messages, "; "))
}

// heard reads what the kernel has to say, until there is no more (ENODATA).
func heard(fs int) (messages []string) {
	buf := make([]byte, 1024)
	for {
		n, err := unix.Read(fs, buf)
		if err != nil || n <= 0 {
			return messages
		}
		messages = append(messages, strings.TrimSpace(string(buf[:n])))
	}
}

// doLayers performs a mount whose layers are given one by one.
func (m Mount) doLayers(base string) error {
	attr := 0
	settings := []setting{{"source", m.Source}}
	for _, o := range m.Options {
		if o == "ro" {
			attr = unix.MOUNT_ATTR_RDONLY
		}
		key, value, _ := strings.Cut(rebase(o, base), "=")
		settings = append(settings, setting{key, value})
	}
	fd, err := newOverlay(settings, attr)
	if errors.Is(err, errNoLayers) {
		err = fmt.Errorf("%w; build the image with fewer layers", err)
	}
	if err != nil {
		return fmt.Errorf("mount %s: %w", m.Target, err)
	}
	defer unix.Close(fd)
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, m.Target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s at %s: %w", m.Type, m.Target, err)
	}
	return nil
}
