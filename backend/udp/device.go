package udp

import (
	"errors"
	"fmt"
	"os"

	"github.com/songgao/water"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// headroom is left before every packet for the virtio header that the device puts there.
const headroom = 16

// device is an attached TUN link: what the data path uses of [tun.Device].
type device interface {
	// Read waits for packets and puts them into bufs from offset on.
	Read(bufs [][]byte, sizes []int, offset int) (int, error)
	// Write hands packets to the kernel; the bytes before offset may be overwritten.
	Write(bufs [][]byte, offset int) (int, error)
	// Close gives the link back. A persistent one stays.
	Close() error
}

// attached is a device and the descriptor behind it, to wait for packets by. Read itself must
// not wait: the kernel wakes the readers of a link that is deleted before their reads would
// fail, and an edge-triggered poller like Go's is not woken again. poll(2) sees POLLERR.
type attached struct {
	device
	fd int
}

// ErrNoLink is wrapped by the error of an Open whose TUN link does not exist.
var ErrNoLink = errors.New("no such link")

// attach opens the existing TUN link of the caller's network namespace. Offloads are used
// unless plain is set or the kernel refuses them.
func attach(name string, plain bool) (*attached, error) {
	index, err := linkIndex(name)
	if err != nil {
		return nil, err
	}
	var dev *attached
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
		if p, ok := dev.device.(plainDevice); ok {
			// This fails only when the new link is gone as well.
			_ = p.control(func(fd int) error { return unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 0) })
		}
		dev.Close()
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
func attachOffload(name string) (*attached, error) {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		unix.Close(fd)
		return nil, err
	}
	// The header's size belongs to the link and outlives whoever set it.
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, virtioHeader); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set the size of virtio headers: %w", err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("%w: %w", errNoOffload, err)
	}
	dev, _, err := tun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &attached{dev, fd}, nil
}

// virtioHeader is the size of struct virtio_net_hdr, in bytes.
const virtioHeader = 10

// plainDevice moves single packets, without offloads.
type plainDevice struct{ link *water.Interface }

func attachPlain(name string) (*attached, error) {
	cfg := water.Config{DeviceType: water.TUN}
	cfg.Name = name
	cfg.Persist = true // otherwise water would take the link's persistence away
	link, err := water.New(cfg)
	if err != nil {
		return nil, err
	}
	d := plainDevice{link}
	dev := &attached{device: d}
	// An earlier process may have set offloads on the link: without a virtio header the kernel
	// would hand out packets of 64 KB and unfinished checksums.
	err = d.control(func(fd int) error {
		dev.fd = fd
		return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0)
	})
	if err != nil {
		link.Close()
		return nil, fmt.Errorf("clear the offloads: %w", err)
	}
	return dev, nil
}

// control runs f with the descriptor, which stays valid until the device is closed.
func (d plainDevice) control(f func(fd int) error) error {
	file, ok := d.link.ReadWriteCloser.(*os.File)
	if !ok {
		return fmt.Errorf("a TUN link that is a %T has no descriptor", d.link.ReadWriteCloser)
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil {
		return err
	}
	return failed
}

func (d plainDevice) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	n, err := d.link.Read(bufs[0][offset:])
	sizes[0] = n
	return 1, err
}

func (d plainDevice) Write(bufs [][]byte, offset int) (int, error) {
	var errs error
	for _, b := range bufs {
		if _, err := d.link.Write(b[offset:]); err != nil {
			errs = errors.Join(errs, err)
		}
	}
	return len(bufs), errs
}

func (d plainDevice) Close() error { return d.link.Close() }

// gone says whether an error of a device means that the link was deleted or closed.
func gone(err error) bool {
	for _, e := range []error{os.ErrClosed, unix.EBADFD, unix.EBADF, unix.EFAULT, unix.ENODEV, unix.ENXIO} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
