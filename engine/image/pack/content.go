package pack

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// copyBuffer is what is read and written at once, in bytes.
const copyBuffer = 256 << 10

var zeros [copyBuffer]byte

// file writes a regular file, unless it has vanished or is something else by now.
func (p *packer) file(n node) error {
	// What may have taken its place meanwhile is not to block, nor to be followed; reading is not to change the file.
	const flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOATIME | unix.O_CLOEXEC
	fd, err := unix.Openat(n.dir, n.name, flags, 0)
	if gone(err) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %q: %w", n.path, err)
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &n.st); err != nil {
		return fmt.Errorf("look at %q: %w", n.path, err)
	}
	if n.st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	a, err := p.ids.attributesOf("", fd)
	if err != nil {
		return fmt.Errorf("%q: %w", n.path, err)
	}
	if a.incomplete != "" {
		return fmt.Errorf("%q has the attribute %s: its content is elsewhere", n.path, a.incomplete)
	}
	h := p.ids.header(n, a)
	h.Typeflag, h.Size = tar.TypeReg, n.st.Size
	if err := p.begin(h); err != nil {
		return err
	}
	if err := p.content(fd, n.st); err != nil {
		return fmt.Errorf("write %q: %w", n.path, err)
	}
	p.stats.Size += n.st.Size
	if n.st.Nlink > 1 {
		p.links[inode{n.st.Dev, n.st.Ino}] = n.path
	}
	return nil
}

// content writes as many bytes of a file as it had when it was looked at.
func (p *packer) content(fd int, st unix.Stat_t) error {
	sparse := st.Blocks*512 < st.Size
	for at := int64(0); at < st.Size; {
		data, end := at, st.Size
		if sparse {
			var err error
			if data, end, err = extent(fd, at, st.Size); err != nil {
				return err
			}
		}
		if err := p.zeros(data - at); err != nil {
			return err
		}
		if err := p.data(fd, data, end); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// extent is the next part of a file with content at or behind an offset. It ends at the size at the latest.
func extent(fd int, at, size int64) (data, end int64, err error) {
	data, err = unix.Seek(fd, at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // nothing but a hole
		return size, size, nil
	case errors.Is(err, unix.EINVAL): // a filesystem that does not tell
		return at, size, nil
	case err != nil:
		return 0, 0, err
	case data >= size:
		return size, size, nil
	}
	end, err = unix.Seek(fd, data, unix.SEEK_HOLE)
	if errors.Is(err, unix.ENXIO) { // cut meanwhile
		return data, size, nil
	}
	if err != nil {
		return 0, 0, err
	}
	return data, min(max(end, data), size), nil
}

// data writes a part of a file, and zeros for what is not there any more.
func (p *packer) data(fd int, at, end int64) error {
	for at < end {
		if p.ctx.Err() != nil {
			return context.Cause(p.ctx)
		}
		n, err := unix.Pread(fd, p.buf[:min(int64(len(p.buf)), end-at)], at)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return p.zeros(end - at)
		}
		if _, err := p.tar.Write(p.buf[:n]); err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}

func (p *packer) zeros(n int64) error {
	for n > 0 {
		if p.ctx.Err() != nil {
			return context.Cause(p.ctx)
		}
		chunk := zeros[:min(n, copyBuffer)]
		if _, err := p.tar.Write(chunk); err != nil {
			return err
		}
		n -= int64(len(chunk))
	}
	return nil
}
