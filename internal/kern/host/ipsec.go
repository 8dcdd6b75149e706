package host

import (
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// What linux/xfrm.h has of policies.
const (
	xfrmGetPolicy  = 0x15 // XFRM_MSG_GETPOLICY
	sizeofPolicyID = 64   // struct xfrm_userpolicy_id
	policyDir      = 160  // in struct xfrm_userpolicy_info
	xfrmPolicies   = 3    // XFRM_POLICY_MAX: in, out and fwd are below, those of single sockets above
)

// HasIPsec reports whether the host has policies of IPsec (xfrm) for what comes, goes or is forwarded.
func (h *Host) HasIPsec() (has bool, err error) {
	c, err := netlink.Dial(unix.NETLINK_XFRM, &netlink.Config{NetNS: h.fd})
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return false, nil // the kernel has none
	}
	if err != nil {
		return false, fmt.Errorf("open a socket for IPsec policies: %w", err)
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	all, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: xfrmGetPolicy, Flags: netlink.Request | netlink.Dump},
		Data:   make([]byte, sizeofPolicyID),
	})
	if err != nil {
		return false, fmt.Errorf("list IPsec policies: %w", err)
	}
	for _, m := range all {
		has = has || len(m.Data) > policyDir && m.Data[policyDir] < xfrmPolicies
	}
	return has, nil
}
