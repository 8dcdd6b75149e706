package udp

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/songgao/water"
	"golang.org/x/sys/unix"
)

// device is an attached TUN link. Its descriptor does not block and is not known to Go's network
// poller, which would wake a thread of its own for every packet. A reader that finds nothing to read
// waits with poll(2): the kernel wakes the readers of a link that is deleted before their reads
// would fail, and an edge-triggered poller is not woken again. poll(2) sees POLLERR.
type device struct {
	fd     int
	header bool // a virtio header precedes every packet
	uso    bool // the kernel takes several UDP datagrams as one packet, and hands them out so
}

// read takes one packet, or gives EAGAIN. b holds it from headroom on, after its virtio header.
func (d *device) read(b []byte) (int, error) {
	at := headroom
	if d.header {
		at -= virtioSize
	}
	b = b[at:]
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(d.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		switch errno {
		case 0:
			return int(n) - (headroom - at), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// write hands one packet, in pieces, to the kernel. The first piece is the virtio header.
func (d *device) write(pieces []unix.Iovec) error {
	if !d.header {
		pieces = pieces[1:]
	}
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(d.fd), uintptr(unsafe.Pointer(&pieces[0])),
			uintptr(len(pieces)))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

// close gives the link back. A persistent one stays.
func (d *device) close() { unix.Close(d.fd) }

// ErrNoLink is wrapped by the error of an Open whose TUN link does not exist.
var ErrNoLink = errors.New("no such link")

// attach opens the existing TUN link of the caller's network namespace. Offloads are used
// unless plain is set or the kernel refuses them.
func attach(name string, plain bool) (*device, error) {
	index, err := linkIndex(name)
	if err != nil {
		return nil, err
	}
	var dev *device
	if !plain {
		if dev, err = attachOffload(name); errors.Is(err, errNoOffload) {
			plain = true
		}
	}
	if plain {
		dev, err = attachPlain(name)
	}
	if err != nil {
		return nil, attachError(name, err)
	}
	// A link that was deleted since the first look was made anew by attaching, without owner,
	// address or persistence. It goes when it is closed.
	if now, err := linkIndex(name); err != nil || now != index {
		if plain {
			// This fails only when the new link is gone as well.
			_ = unix.IoctlSetInt(dev.fd, unix.TUNSETPERSIST, 0)
		}
		dev.close()
		return nil, fmt.Errorf("attach to TUN link %s: %w: it was deleted meanwhile", name, ErrNoLink)
	}
	return dev, nil
}

func attachError(name string, err error) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("attach to TUN link %s: %w: another process has it open", name, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("attach to TUN link %s: %w: a link of this name is not a TUN link with one queue", name, err)
	}
	return fmt.Errorf("attach to TUN link %s: %w", name, err)
}

// linkIndex asks by ioctl: one call instead of a dump of all links.
func linkIndex(name string) (uint32, error) {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return 0, fmt.Errorf("TUN link %q: a link name has 1 to 15 bytes: %w", name, err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("look for TUN link %s: %w", name, err)
	}
	defer unix.Close(fd)
	switch err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); {
	case errors.Is(err, unix.ENODEV):
		return 0, fmt.Errorf("look for TUN link %s: %w", name, ErrNoLink)
	case err != nil:
		return 0, fmt.Errorf("look for TUN link %s: %w", name, err)
	}
	return req.Uint32(), nil
}

var errNoOffload = errors.New("the kernel refuses TUN offloads")

// attachOffload has packets come and go as large as the kernel's stack makes them.
func attachOffload(name string) (*device, error) {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		unix.Close(fd)
		return nil, err
	}
	dev := &device{fd: fd, header: true}
	if err := dev.offload(); err != nil {
		dev.close()
		return nil, err
	}
	return dev, nil
}

// offload sets what of offloads a link with virtio headers has.
func (d *device) offload() error {
	// The header's size belongs to the link and outlives the process that set it.
	if err := unix.IoctlSetPointerInt(d.fd, unix.TUNSETVNETHDRSZ, virtioSize); err != nil {
		return fmt.Errorf("set the size of virtio headers: %w", err)
	}
	const tcp = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	// Kernels before 6.2 know no UDP segmentation on TUN links.
	if d.uso = unix.IoctlSetInt(d.fd, unix.TUNSETOFFLOAD, tcp|unix.TUN_F_USO4|unix.TUN_F_USO6) == nil; d.uso {
		return nil
	}
	if err := unix.IoctlSetInt(d.fd, unix.TUNSETOFFLOAD, tcp); err != nil {
		return fmt.Errorf("%w: %w", errNoOffload, err)
	}
	return nil
}

// attachPlain has single packets come and go, without offloads.
func attachPlain(name string) (*device, error) {
	cfg := water.Config{DeviceType: water.TUN}
	cfg.Name = name
	cfg.Persist = true // otherwise water would take the link's persistence away
	link, err := water.New(cfg)
	if err != nil {
		return nil, err
	}
	// Closing it takes the descriptor from Go's network poller; the copy stays attached.
	defer link.Close()
	file, ok := link.ReadWriteCloser.(*os.File)
	if !ok {
		return nil, fmt.Errorf("a TUN link that is a %T has no descriptor", link.ReadWriteCloser)
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	dev := &device{fd: -1}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		dev.fd, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC,
			0)
	}); err != nil {
		return nil, err
	}
	if failed != nil {
		return nil, fmt.Errorf("copy the descriptor: %w", failed)
	}
	if err := unix.SetNonblock(dev.fd, true); err != nil {
		dev.close()
		return nil, fmt.Errorf("keep reads from blocking: %w", err)
	}
	// An earlier process may have set offloads on the link: without a virtio header the kernel
	// would return packets of 64 KB and unfinished checksums.
	if err := unix.IoctlSetInt(dev.fd, unix.TUNSETOFFLOAD, 0); err != nil {
		dev.close()
		return nil, fmt.Errorf("clear the offloads: %w", err)
	}
	return dev, nil
}

// gone reports whether an error of a device means that the link was deleted or closed.
func gone(err error) bool {
	for _, e := range []error{unix.EBADFD, unix.EBADF, unix.EFAULT, unix.ENODEV, unix.ENXIO} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
