package rtnetlink

import (
	"errors"
	"fmt"
	"os"

	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// TUNDevice is what TUN links are made by (kernel networking/tuntap).
const TUNDevice = "/dev/net/tun"

// tunFlags are those of our TUN links: packets without a header of their own, but with one for
// offloads. The program that opens the link later chooses again whether it wants that header.
const tunFlags = unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR

// MakeTUN makes a TUN link that goes with the descriptor, until it is made to stay.
func MakeTUN(device, name string) (int, error) {
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
		return fmt.Errorf("open %s: %w; let the container netd runs in use that device (its devices cgroup forbids "+
			"it)", device, err)
	}
	return fmt.Errorf("open %s: %w", device, err)
}
