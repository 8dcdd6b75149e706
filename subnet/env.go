package subnet

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Env is flannel's subnet.env: what others on the host, such as its CNI plugin, read.
type Env struct {
	Network, IPv6Network netip.Prefix // the zero value: none
	Subnet, IPv6Subnet   netip.Prefix // the node's gateway address with the length of its subnet
	MTU                  int          // bytes
	Masquerade           bool
}

// NewEnv is the environment of a node with the lease; its gateways are the first addresses of its subnets.
func NewEnv(c Config, l Lease, mtu int, masquerade bool) Env {
	first := func(p netip.Prefix) netip.Prefix {
		if !p.IsValid() {
			return p
		}
		return netip.PrefixFrom(p.Addr().Next(), p.Bits())
	}
	e := Env{MTU: mtu, Masquerade: masquerade, Subnet: first(l.Subnet), IPv6Subnet: first(l.Subnet6)}
	if e.Subnet.IsValid() {
		e.Network = c.Network
	}
	if e.IPv6Subnet.IsValid() {
		e.IPv6Network = c.IPv6Network
	}
	return e
}

// WriteEnv writes the file at once: a reader sees the old or the new content, never a part.
func WriteEnv(path string, e Env) error {
	var b strings.Builder
	if e.Subnet.IsValid() {
		fmt.Fprintf(&b, "FLANNEL_NETWORK=%s\nFLANNEL_SUBNET=%s\n", e.Network, e.Subnet)
	}
	if e.IPv6Subnet.IsValid() {
		fmt.Fprintf(&b, "FLANNEL_IPV6_NETWORK=%s\nFLANNEL_IPV6_SUBNET=%s\n", e.IPv6Network, e.IPv6Subnet)
	}
	fmt.Fprintf(&b, "FLANNEL_MTU=%d\nFLANNEL_IPMASQ=%t\n", e.MTU, e.Masquerade)
	if err := replaceFile(path, b.String()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func replaceFile(path, content string) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w%s", err, leftover(os.Remove(f.Name())))
		}
	}()
	_, err = f.WriteString(content)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}

func leftover(err error) string {
	if err == nil || os.IsNotExist(err) {
		return ""
	}
	return fmt.Sprintf(" (and its temporary file stays: %v)", err)
}
