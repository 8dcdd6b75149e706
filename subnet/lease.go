package subnet

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Attrs is what a lease says of its holder: the value of its key.
type Attrs struct {
	PublicIP      netip.Addr      // its IPv4 address on the underlay; the zero value: none
	PublicIPv6    netip.Addr      // its IPv6 address on the underlay; the zero value: none
	BackendType   string          // how it wants to be reached: vxlan, udp, host-gw
	BackendData   json.RawMessage // of the backend over IPv4; nil: none
	BackendV6Data json.RawMessage // of the backend over IPv6; nil: none
	NodeID        string          // of a vethloom node; flanneld neither writes nor reads it
	FastPath      bool            // the node takes what the fast path sends, in any size that the kernel hands over
}

// attrsJSON is flannel's form of Attrs. An IPv4 address that is missing is 0.0.0.0 there, an IPv6 address null.
type attrsJSON struct {
	PublicIP      string
	PublicIPv6    *string
	BackendType   string          `json:",omitempty"`
	BackendData   json.RawMessage `json:",omitempty"`
	BackendV6Data json.RawMessage `json:",omitempty"`
	NodeID        string          `json:",omitempty"`
	FastPath      bool            `json:",omitempty"`
}

// MarshalJSON writes flannel's form.
func (a Attrs) MarshalJSON() ([]byte, error) {
	j := attrsJSON{
		PublicIP: "0.0.0.0", BackendType: a.BackendType, BackendData: a.BackendData,
		BackendV6Data: a.BackendV6Data, NodeID: a.NodeID, FastPath: a.FastPath,
	}
	if a.PublicIP.IsValid() {
		j.PublicIP = a.PublicIP.String()
	}
	if a.PublicIPv6.IsValid() {
		s := a.PublicIPv6.String()
		j.PublicIPv6 = &s
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads flannel's form. The error names the field.
func (a *Attrs) UnmarshalJSON(b []byte) error {
	var j attrsJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return fmt.Errorf("the value is no lease: %w", err)
	}
	v4, err := publicAddr("PublicIP", j.PublicIP, true)
	if err != nil {
		return err
	}
	var v6 netip.Addr
	if j.PublicIPv6 != nil {
		if v6, err = publicAddr("PublicIPv6", *j.PublicIPv6, false); err != nil {
			return err
		}
	}
	if !v4.IsValid() && !v6.IsValid() {
		return fmt.Errorf("neither PublicIP nor PublicIPv6 is an address: nobody can reach its holder")
	}
	*a = Attrs{
		PublicIP: v4, PublicIPv6: v6, BackendType: j.BackendType,
		BackendData: raw(j.BackendData), BackendV6Data: raw(j.BackendV6Data), NodeID: j.NodeID,
		FastPath: j.FastPath && j.NodeID != "",
	}
	return nil
}

// raw is nil for JSON's null.
func raw(m json.RawMessage) json.RawMessage {
	if len(m) == 0 || string(m) == "null" {
		return nil
	}
	return m
}

// publicAddr is the zero value for an unspecified address.
func publicAddr(field, value string, is4 bool) (netip.Addr, error) {
	if value == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(value)
	if err != nil || a.Zone() != "" || a.Is4() != is4 || a.Is4In6() {
		return netip.Addr{}, fmt.Errorf("%s %q is no %s address", field, value, familyName(is4))
	}
	if a.IsUnspecified() {
		return netip.Addr{}, nil
	}
	if a.IsLoopback() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return netip.Addr{}, fmt.Errorf("%s %s is no address a node can be reached at", field, a)
	}
	return a, nil
}

func familyName(is4 bool) string {
	if is4 {
		return "IPv4"
	}
	return "IPv6"
}

// Subnets is a subnet of each family; either may be the zero value.
type Subnets struct {
	V4, V6 netip.Prefix
}

// IsValid reports whether there is one at all.
func (s Subnets) IsValid() bool { return s.V4.IsValid() || s.V6.IsValid() }

// Overlaps reports whether the two have addresses of either family in common.
func (s Subnets) Overlaps(o Subnets) bool { return s.V4.Overlaps(o.V4) || s.V6.Overlaps(o.V6) }

// String lists what there is.
func (s Subnets) String() string {
	switch {
	case !s.V6.IsValid():
		return s.V4.String()
	case !s.V4.IsValid():
		return s.V6.String()
	}
	return s.V4.String() + " and " + s.V6.String()
}

// noV4 is the IPv4 half of a key of IPv6 alone: flannel's keys all have one.
const noV4 = "0.0.0.0-0"

// Key is the name of the lease's key: 10.5.1.0-24, 10.5.1.0-24&fc00::-64, or 0.0.0.0-0&fc00::-64.
func (s Subnets) Key() string {
	k := noV4
	if s.V4.IsValid() {
		k = fmt.Sprintf("%s-%d", s.V4.Addr(), s.V4.Bits())
	}
	if s.V6.IsValid() {
		k += fmt.Sprintf("&%s-%d", s.V6.Addr(), s.V6.Bits())
	}
	return k
}

// ParseKey reads the name of a lease's key. Only what [Subnets.Key] writes is one: there are
// no two spellings of the same subnets.
func ParseKey(key string) (Subnets, error) {
	var s Subnets
	k4, k6, dual := strings.Cut(key, "&")
	if k4 != noV4 || !dual {
		p, err := parsePart(k4, true)
		if err != nil {
			return Subnets{}, fmt.Errorf("the key %q: %w", key, err)
		}
		s.V4 = p
	}
	if dual {
		p, err := parsePart(k6, false)
		if err != nil {
			return Subnets{}, fmt.Errorf("the key %q: %w", key, err)
		}
		s.V6 = p
	}
	if s.Key() != key {
		return Subnets{}, fmt.Errorf("the key %q: want it spelled %q", key, s.Key())
	}
	return s, nil
}

func parsePart(part string, is4 bool) (netip.Prefix, error) {
	addr, bits, ok := strings.Cut(part, "-")
	a, err := netip.ParseAddr(addr)
	n, err2 := strconv.ParseUint(bits, 10, 8)
	if !ok || err != nil || err2 != nil || a.Is4() != is4 || a.Is4In6() || a.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("%q is no %s subnet, such as %s", part, familyName(is4),
			map[bool]string{true: "10.5.1.0-24", false: "fc00:0:0:1::-64"}[is4])
	}
	p := netip.PrefixFrom(a, int(n))
	if n == 0 || int(n) > a.BitLen()-1 {
		return netip.Prefix{}, fmt.Errorf("%q: a node cannot have a subnet of this length", part)
	}
	if p.Masked() != p {
		return netip.Prefix{}, fmt.Errorf("%q has bits beyond its length", part)
	}
	return p, nil
}

// Lease is a node's subnet.
type Lease struct {
	Subnet, Subnet6 netip.Prefix // either may be the zero value
	Attrs
	Key       string // its name below the directory's subnets
	Create    int64  // etcd revision of its creation
	Mod       int64  // etcd revision of its last change
	EtcdLease int64  // what it hangs on; 0: nothing, it is a reservation
}

// Subnets are both of the lease's.
func (l Lease) Subnets() Subnets { return Subnets{V4: l.Subnet, V6: l.Subnet6} }

// Reservation reports whether the key stays when its holder is gone.
func (l Lease) Reservation() bool { return l.EtcdLease == 0 }

// ParseLease reads a lease from its key's name and value.
func ParseLease(key string, value []byte) (Lease, error) {
	s, err := ParseKey(key)
	if err != nil {
		return Lease{}, err
	}
	l := Lease{Subnet: s.V4, Subnet6: s.V6, Key: key}
	if err := l.Attrs.UnmarshalJSON(value); err != nil {
		return Lease{}, fmt.Errorf("the lease %s: %w", key, err)
	}
	return l, nil
}

// heldBy reports whether the lease is a's holder's: its node's, or, where no node is named, that of the
// same public address, which is a flanneld that ran on the host before, or a reservation.
func (l Lease) heldBy(a Attrs) bool {
	if l.NodeID != "" {
		return l.NodeID == a.NodeID
	}
	if l.PublicIP.IsValid() || a.PublicIP.IsValid() {
		return l.PublicIP == a.PublicIP
	}
	return l.PublicIPv6 == a.PublicIPv6
}
