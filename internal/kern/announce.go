package kern

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/kern/netns"
	"github.com/vethloom/vethloom/internal/kern/packet"
	"github.com/vethloom/vethloom/plan"
)

// announce tells the neighbours of a sandbox's new addresses where those are: who has known them by another hardware
// address would go on sending there for up to a minute.
func (s *session) announce() error {
	fresh := map[plan.NetNS][]plan.Addr{}
	for _, op := range s.ops {
		if a, ok := op.Object.(plan.Addr); ok && op.Verb == plan.Create && a.NS != "" {
			fresh[a.NS] = append(fresh[a.NS], a)
		}
	}
	for ns, addrs := range fresh {
		fd, err := s.fd(ns)
		if err == nil {
			err = netns.Enter(fd, func() error { return sendAnnouncements(addrs) })
		}
		if err != nil {
			return fmt.Errorf("announce the addresses of %s: %w", ns, err)
		}
	}
	return nil
}

// sendAnnouncements sends from the caller's namespace. A link that is gone or down needs none.
func sendAnnouncements(addrs []plan.Addr) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	links := map[string]*net.Interface{}
	for _, a := range addrs {
		link := links[a.Link]
		if link == nil {
			if link, err = net.InterfaceByName(a.Link); err != nil {
				continue
			}
			links[a.Link] = link
		}
		ethernet := link.Flags&net.FlagBroadcast != 0 && len(link.HardwareAddr) == len(plan.MAC{})
		if link.Flags&net.FlagUp == 0 || !ethernet {
			continue
		}
		frame, err := packet.Announcement(a.Prefix.Addr(), plan.MAC(link.HardwareAddr))
		if err != nil {
			return err
		}
		err = unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Index})
		if err != nil && err != unix.ENETDOWN && err != unix.ENXIO {
			return os.NewSyscallError("sendto", err)
		}
	}
	return nil
}
