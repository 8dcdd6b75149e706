package snapshot

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount is one mount(2) to perform. It is plain data, to be sent to the process that
// performs it with [Mount.Do].
//
// A container in a user namespace needs its layers with shifted owners:
// mount_setattr(2) with MOUNT_ATTR_IDMAP on a bind mount of each layer, overlayfs taking idmapped
// lower layers since Linux 5.19. Layers are stored with their real owners for that.
// Files that are copied up get the shifted owners on disk; so the upper directory
// has to be given to the container's root first.
type Mount struct {
	Type    string   `json:"type"` // overlay
	Source  string   `json:"source"`
	Target  string   `json:"target"` // absolute; the directory exists
	Options []string `json:"options,omitempty"`
	Dir     string   `json:"dir,omitempty"` // absolute; what relative paths in Options start from
}

// pageSize bounds the text of mount options, see mount(2). The smallest of
// any architecture counts, in bytes.
const pageSize = 4096

// fixedOptions keep a layer what its tar says it is: no reference from one
// directory to another, which nothing but this mount would understand.
var fixedOptions = []string{"index=off", "metacopy=off", "redirect_dir=nofollow"}

// overlay describes the mount of a snapshot's layers.
func overlay(dir string, lower []string, writable bool) Mount {
	m := Mount{Type: "overlay", Source: "overlay", Target: filepath.Join(dir, "rootfs")}
	base := dir + "/"
	links := make([]string, len(lower))
	for i := range lower {
		links[i] = "l/" + linkName(i)
	}
	switch {
	case fits(dir, lower):
		m.Options = []string{"lowerdir=" + joinTopFirst(lower)}
	case len(lower) <= maxTogether:
		m.Dir, base = dir, ""
		m.Options = []string{"lowerdir=" + strings.Join(links, ":")}
	default:
		m.Dir, base = dir, ""
		for _, l := range links {
			m.Options = append(m.Options, addLayer+"="+l)
		}
	}
	if writable {
		m.Options = append(m.Options, "upperdir="+base+"rw/upper", "workdir="+base+"rw/work")
	} else {
		m.Options = append(m.Options, "ro")
	}
	m.Options = append(m.Options, fixedOptions...)
	return m
}

// maxTogether is how many layers fit the one page of options of mount(2), by the links to them: each takes
// "/proc/self/fd/1234567/l/ab:" at most.
const maxTogether = 140

// linkName names the i-th layer from the top.
func linkName(i int) string { return strconv.FormatInt(int64(i), 36) }

func joinTopFirst(lower []string) string {
	var b strings.Builder
	for i := len(lower) - 1; i >= 0; i-- {
		b.WriteString(lower[i])
		if i > 0 {
			b.WriteByte(':')
		}
	}
	return b.String()
}

// fits reports whether the options can hold the layers' own paths, which read
// better in /proc/mounts: they are short enough, and free of what overlayfs splits at.
func fits(dir string, lower []string) bool {
	size := 2*len(dir) + 128 // the other options
	for _, l := range append(lower[:len(lower):len(lower)], dir) {
		if strings.ContainsAny(l, `,:\`) {
			return false
		}
		size += len(l) + 1
	}
	return size < pageSize
}

// Do performs the mount in the caller's mount namespace, and depends on no
// working directory.
func (m Mount) Do() error {
	base := ""
	if m.Dir != "" {
		fd, err := unix.Open(m.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("mount %s: open %s: %w", m.Target, m.Dir, err)
		}
		defer unix.Close(fd)
		base = fmt.Sprintf("/proc/self/fd/%d/", fd)
	}
	if slices.ContainsFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, addLayer) }) {
		return m.doLayers(base)
	}
	var flags uintptr
	var data []string
	for _, o := range m.Options {
		if o == "ro" {
			flags |= unix.MS_RDONLY
			continue
		}
		data = append(data, rebase(o, base))
	}
	text := strings.Join(data, ",")
	if len(text) >= pageSize {
		return fmt.Errorf("mount %s: the options of its layers take %d bytes and may take %d: build the image "+
			"with fewer layers", m.Target, len(text), pageSize-1)
	}
	if err := unix.Mount(m.Source, m.Target, m.Type, flags, text); err != nil {
		return fmt.Errorf("mount %s at %s with %s: %w", m.Type, m.Target, text, err)
	}
	return nil
}

// rebase puts base before the relative paths of an overlayfs option.
func rebase(option, base string) string {
	key, value, ok := strings.Cut(option, "=")
	if !ok || base == "" || key != "lowerdir" && key != addLayer && key != "upperdir" && key != "workdir" {
		return option
	}
	paths := strings.Split(value, ":")
	for i, p := range paths {
		if !filepath.IsAbs(p) {
			paths[i] = base + p
		}
	}
	return key + "=" + strings.Join(paths, ":")
}
