package kern

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/vethloom/vethloom/internal/kern/netns"
	"github.com/vethloom/vethloom/plan"
)

// sysctlFile is where a value is read and written. /proc/sys/net shows the
// namespace of the thread that opens the file.
func sysctlFile(s plan.Sysctl) (string, error) {
	if s.Path == "" || path.Clean("/"+s.Path) != "/"+s.Path {
		return "", fmt.Errorf("sysctl %q: want a path below net/, such as ipv4/ip_forward", s.Path)
	}
	return "/proc/sys/net/" + s.Path, nil
}

// implied is what counts as the value where there is none, "" for nothing: without the module br_netfilter bridged
// frames pass no other firewall, and a link with an MTU below 1280 bytes has no IPv6.
func implied(s plan.Sysctl) string {
	switch {
	case strings.HasPrefix(s.Path, "bridge/bridge-nf-"):
		return "0"
	case s.Link() != "" && strings.HasPrefix(s.Path, "ipv6/conf/") && path.Base(s.Path) == "disable_ipv6":
		return "1"
	}
	return ""
}

// readSysctls reads the values of the given keys, one namespace after the other.
func (k *Kernel) readSysctls(keys []plan.Sysctl) ([]plan.Sysctl, error) {
	var out []plan.Sysctl
	byNS := map[plan.NetNS][]plan.Sysctl{}
	var order []plan.NetNS
	for _, s := range keys {
		if _, ok := byNS[s.NS]; !ok {
			order = append(order, s.NS)
		}
		byNS[s.NS] = append(byNS[s.NS], s)
	}
	for _, ns := range order {
		err := k.enter(ns, func() error {
			for _, s := range byNS[ns] {
				value, err := readSysctl(s)
				if errors.Is(err, os.ErrNotExist) {
					if value = implied(s); value == "" {
						continue
					}
					err = nil
				}
				if err != nil {
					return err
				}
				s.Value = value
				out = append(out, s)
			}
			return nil
		})
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("read sysctls in namespace %q: %w", ns, err)
		}
	}
	return out, nil
}

func readSysctl(s plan.Sysctl) (string, error) {
	file, err := sysctlFile(s)
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(file)
	return strings.TrimSpace(string(b)), err
}

// enter runs f on a thread in a namespace.
func (k *Kernel) enter(ns plan.NetNS, f func() error) error {
	if ns == "" {
		return netns.Enter(k.fd(), f)
	}
	file, err := k.openPin(ns)
	if err != nil {
		return err
	}
	defer file.Close()
	return netns.Enter(int(file.Fd()), f)
}

// sysctls sets values that are all in one namespace.
func (s *session) sysctls(first int, ops []plan.Op) error {
	fd, err := s.fd(ops[0].NS())
	if err != nil {
		return s.fail(first, err)
	}
	failed := 0
	err = netns.Enter(fd, func() error {
		for i, op := range ops {
			failed = i
			if op.Verb == plan.Delete {
				continue // what is no longer wanted stays as it is
			}
			if err := writeSysctl(op.Object.(plan.Sysctl)); err != nil {
				return err
			}
		}
		return nil
	})
	return s.fail(first+failed, err)
}

func writeSysctl(s plan.Sysctl) error {
	file, err := sysctlFile(s)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		if s.Value == implied(s) {
			return nil
		}
		return fmt.Errorf("%w: %w", plan.ErrUnsupported, err)
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(s.Value)
	return errors.Join(err, f.Close())
}
