package cnm

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// MaxIndex is the greatest [Endpoint.Index]: a sandbox has one endpoint more at most.
const MaxIndex = 30

// maxSysctls bounds the sysctls of one link.
const maxSysctls = 64

// LinkOptions say what an endpoint's link in its sandbox is like. The zero value: it has a name that is free and the
// kernel's settings.
type LinkOptions struct {
	IfName string `json:"ifname,omitempty"` // its name, at most 15 bytes
	// by names in which IFNAME stands for the link: net.ipv4.conf.IFNAME.log_martians
	Sysctls map[string]string `json:"sysctls,omitempty"`
	// bits a second that go to the sandbox, and that come from it; 0: as many as can
	RateIn  uint64 `json:"rateIn,omitempty"`
	RateOut uint64 `json:"rateOut,omitempty"`
}

// MinRate and MaxRate bound the rates of a link, in bits a second.
const (
	MinRate = 8_000
	MaxRate = 1_000_000_000_000
)

// Given reports whether anything is asked for.
func (o LinkOptions) Given() bool {
	return o.IfName != "" || len(o.Sysctls) > 0 || o.Limited()
}

// The options by which Docker's users ask for a link's name and sysctls.
const (
	dockerIfName  = "com.docker.network.endpoint.ifname"
	dockerSysctls = "com.docker.network.endpoint.sysctls"
)

// SetDocker sets what an option of an endpoint asks for that Docker's users know. What it is set to is to be checked.
func (o *LinkOptions) SetDocker(name, value string) error {
	switch name {
	case dockerIfName:
		return o.SetIfName(value)
	case dockerSysctls:
		for one := range strings.SplitSeq(value, ",") {
			if err := o.SetSysctl(one); err != nil {
				return err
			}
		}
	default:
		return &Error{Kind: ErrInvalid, Field: "driver-opt", Value: name, Reason: "unknown",
			Remedy: "known are " + dockerIfName + " and " + dockerSysctls}
	}
	return nil
}

// SetIfName sets the link's name, which it gets once.
func (o *LinkOptions) SetIfName(name string) error {
	if o.IfName != "" && o.IfName != name {
		return &Error{Kind: ErrInvalid, Field: "ifname", Value: name,
			Reason: fmt.Sprintf("the link has the name %q already", o.IfName), Remedy: "give one name"}
	}
	o.IfName = name
	return nil
}

// SetSysctl sets the sysctl of NAME=VALUE.
func (o *LinkOptions) SetSysctl(text string) error {
	name, value, ok := strings.Cut(text, "=")
	if !ok {
		return &Error{Kind: ErrInvalid, Field: "sysctl", Value: text, Reason: "has no value",
			Remedy: "write net.ipv4.conf.IFNAME.NAME=VALUE"}
	}
	if o.Sysctls == nil {
		o.Sysctls = map[string]string{}
	}
	o.Sysctls[name] = value
	return nil
}

// Limited reports whether the link is held to a rate in either direction.
func (o LinkOptions) Limited() bool { return o.RateIn != 0 || o.RateOut != 0 }

// LinkName is the name of the endpoint's link in its sandbox.
func (e Endpoint) LinkName() string {
	if e.IfName != "" {
		return e.IfName
	}
	return defaultLink(e.Index)
}

func defaultLink(index int) string { return "eth" + strconv.Itoa(index) }

// Check refuses what no link can have.
func (o LinkOptions) Check() error {
	if err := o.checkName(); err != nil {
		return err
	}
	for field, rate := range map[string]uint64{"rate-in": o.RateIn, "rate-out": o.RateOut} {
		if rate != 0 && (rate < MinRate || rate > MaxRate) {
			return &Error{Kind: ErrInvalid, Field: field, Value: fmt.Sprint(rate),
				Reason: "not a number of bits a second that a link is held to",
				Remedy: fmt.Sprintf("give one from %d to %d", MinRate, MaxRate)}
		}
	}
	if len(o.Sysctls) > maxSysctls {
		return &Error{Kind: ErrInvalid, Field: "sysctl", Value: fmt.Sprint(len(o.Sysctls)),
			Reason: "too many of one link", Remedy: fmt.Sprintf("give %d at most", maxSysctls)}
	}
	for _, name := range slices.Sorted(maps.Keys(o.Sysctls)) {
		if err := checkLinkSysctl(name, o.Sysctls[name]); err != nil {
			return err
		}
	}
	return nil
}

// checkName holds to what the kernel takes (dev_valid_name), and to what can be a part of a path and an argument.
func (o LinkOptions) checkName() error {
	bad := func(reason string) error {
		return &Error{Kind: ErrInvalid, Field: "ifname", Value: o.IfName, Reason: reason,
			Remedy: "use 1 to 15 letters, digits, '_', '.' and '-', starting with a letter or digit, such as web0"}
	}
	switch {
	case o.IfName == "":
		return nil
	case len(o.IfName) > 15:
		return bad(fmt.Sprintf("%d bytes long", len(o.IfName)))
	case o.IfName == "lo" || o.IfName == "all" || o.IfName == "default":
		return bad("the kernel uses this name itself")
	}
	for i, r := range o.IfName {
		if !isAlnum(r) && (i == 0 || !strings.ContainsRune("_.-", r)) {
			return bad(fmt.Sprintf("has %q in it", r))
		}
	}
	return nil
}

// linkStands stands for the link's name in the name of a sysctl.
const linkStands = "IFNAME"

func checkLinkSysctl(name, value string) error {
	bad := func(reason, remedy string) error {
		return &Error{Kind: ErrInvalid, Field: "sysctl", Value: name + "=" + value, Reason: reason, Remedy: remedy}
	}
	parts := strings.Split(name, ".")
	switch {
	case len(parts) != 5 || parts[0] != "net" || parts[3] != linkStands ||
		!slices.Contains([]string{"ipv4", "ipv6", "mpls"}, parts[1]) ||
		!slices.Contains([]string{"conf", "neigh"}, parts[2]) ||
		parts[4] == "" || strings.Trim(parts[4], "abcdefghijklmnopqrstuvwxyz0123456789_") != "":
		return bad("not one of a link",
			"write net.ipv4.conf.IFNAME.NAME=VALUE, with IFNAME as it stands; others go to the container: --sysctl")
	case parts[4] == "disable_ipv6" || parts[4] == "mtu":
		return bad("the network decides on it",
			"make the network with or without --ipv6, and with the MTU it is to have")
	case strings.HasSuffix(parts[4], "_ms"):
		return bad("the kernel rounds it to its own ticks", "use the one without _ms")
	}
	if n, err := strconv.ParseInt(value, 10, 64); err != nil || strconv.FormatInt(n, 10) != value {
		return bad("not a number", "write a decimal number")
	}
	return nil
}

// SysctlPath is the path of a sysctl of [LinkOptions] below net/, for a link.
func SysctlPath(name, link string) string {
	parts := strings.Split(strings.TrimPrefix(name, "net."), ".")
	for i := range parts {
		if parts[i] == linkStands {
			parts[i] = link
		}
	}
	return strings.Join(parts, "/")
}

// CheckLinkNames refuses requests for one sandbox that ask for the same link name.
func CheckLinkNames(requests []AttachRequest) error {
	by := map[string]string{}
	for _, r := range requests {
		if other, twice := by[r.IfName]; twice && r.IfName != "" {
			return LinkTaken(r.IfName, other)
		}
		by[r.IfName] = r.Network
	}
	return nil
}

// LinkTaken refuses a link name that the sandbox's endpoint on another network has.
func LinkTaken(name, network string) error {
	return &Error{Kind: ErrExists, Field: "ifname", Value: name,
		Reason: fmt.Sprintf("it is the link to network %.64s in the same container", network),
		Remedy: "choose another name"}
}

// FreeIndex is the index of a further endpoint of a sandbox. One without a name for its link gets the lowest whose
// link name nobody has, and none of the requests is to have; one with a name comes after all that are there.
func FreeIndex(have []Endpoint, o LinkOptions, requests []AttachRequest) int {
	used, names, next := map[int]bool{}, map[string]bool{}, 0
	for _, e := range have {
		used[e.Index], names[e.LinkName()] = true, true
		next = max(next, e.Index+1)
	}
	if o.IfName != "" && next <= MaxIndex {
		return next
	}
	for _, r := range requests {
		names[r.IfName] = true
	}
	i := 0
	for used[i] || o.IfName == "" && names[defaultLink(i)] {
		i++
	}
	return i
}
