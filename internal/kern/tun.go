package kern

import (
	"errors"
	"fmt"
	"os"

	"github.com/vethloom/vethloom/internal/plan"
	"golang.org/x/sys/unix"
)

// tunDevice is what TUN links are made by (kernel networking/tuntap).
const tunDevice = "/dev/net/tun"

// tunFlags are those of our TUN links: packets without a header of their own, but with one for
// offloads. Whoever opens the link later chooses again whether it wants that header.
const tunFlags = unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR

// tunTypeTUN is the value of IFLA_TUN_TYPE of a TUN link; TAP has another.
const tunTypeTUN = unix.IFF_TUN

// kindTAP is no kind of ours: a link of that kind is not what is wanted.
const kindTAP plan.LinkKind = "tap"

// createTUN makes a link that outlives this process, as its last step: should a crash
// come earlier, the link goes with the descriptor.
func (s *session) createTUN(l plan.Link) error {
	if err := s.flush(); err != nil {
		return err
	}
	if err := s.closeTunnel(l); err != nil { // of a link that somebody else removed
		return err
	}
	fd, err := s.openTUN(l)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := s.send(l.NS, append(s.firstEnd(l), s.learn(end{l.NS, l.Name}))...); err != nil {
		return err
	}
	if err := s.flush(); err != nil {
		return err
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("make the TUN link stay: %w", err)
	}
	return nil
}

// closeTunnel ends the tunnel of a TUN link of the fabric's namespace.
func (s *session) closeTunnel(l plan.Link) error {
	if l.Kind != plan.TUN || l.NS != "" {
		return nil
	}
	if err := s.k.closeTunnel(l.Name); err != nil {
		return fmt.Errorf("close the tunnel of %s: %w", l.Name, err)
	}
	return nil
}

// openTUN makes the link. One of that name that is there already is an error, whoever made it.
func (s *session) openTUN(l plan.Link) (fd int, err error) {
	at, err := s.fd(l.NS)
	if err != nil {
		return -1, err
	}
	err = inNetNS(at, func() (err error) {
		fd, err = makeTUN(tunDevice, l.Name)
		return err
	})
	return fd, err
}

func makeTUN(device, name string) (int, error) {
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, tunError(device, err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(tunFlags | unix.IFF_TUN_EXCL)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.EBUSY) {
			err = fmt.Errorf("a link of that name is there already: %w", os.ErrExist)
		}
		return -1, fmt.Errorf("make TUN link %s: %w", name, err)
	}
	return fd, nil
}

// tunError says what to do where the device is missing.
func tunError(device string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("open %s: %w: %w; load the kernel module tun, or give the container netd runs in that device",
			device, plan.ErrUnsupported, err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("open %s: %w; let the container netd runs in use that device (its devices cgroup forbids it)", device, err)
	}
	return fmt.Errorf("open %s: %w", device, err)
}

func (l *link) parseTUN(b []byte) error {
	return eachAttr(b, func(kind uint16, value []byte) error {
		if kind == unix.IFLA_TUN_TYPE && u8(value) != tunTypeTUN {
			l.kind = kindTAP
		}
		return nil
	})
}
