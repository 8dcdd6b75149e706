package engine

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/sys/capability"
)

// defaultCapabilities are what a container's root may do: enough for servers
// and package managers, nothing that reaches the host. The list is the one
// users of other engines are used to.
var defaultCapabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

const allCapabilities = "ALL"

// capabilitySet is the default set with some added and some dropped, each with
// or without CAP_ in any case, or ALL.
func capabilitySet(add, drop []string) ([]string, error) {
	adds, err := capabilityNames("cap-add", add)
	if err != nil {
		return nil, err
	}
	drops, err := capabilityNames("cap-drop", drop)
	if err != nil {
		return nil, err
	}
	set := slices.Clone(defaultCapabilities)
	if slices.Contains(drops, allCapabilities) {
		set = nil
	}
	if slices.Contains(adds, allCapabilities) {
		if set, err = ownCapabilities(); err != nil {
			return nil, err
		}
	}
	for _, c := range adds {
		if c != allCapabilities && !slices.Contains(set, c) {
			set = append(set, c)
		}
	}
	set = slices.DeleteFunc(set, func(c string) bool { return slices.Contains(drops, c) })
	slices.Sort(set)
	return set, nil
}

func capabilityNames(field string, names []string) ([]string, error) {
	known := capabilityStrings(capability.ListKnown())
	var out []string
	for _, given := range names {
		name := strings.ToUpper(given)
		if name != allCapabilities {
			name = "CAP_" + strings.TrimPrefix(name, "CAP_")
		}
		if name != allCapabilities && !slices.Contains(known, name) {
			return nil, invalid(field, given, "no such capability",
				"see capabilities(7): NET_ADMIN, SYS_PTRACE, …, or ALL")
		}
		out = append(out, name)
	}
	return out, nil
}

// ownCapabilities are all that this process could give: there may be fewer
// than the kernel has, when netd itself runs in a container.
func ownCapabilities() ([]string, error) {
	own, err := capability.NewPid2(0)
	if err == nil {
		err = own.Load()
	}
	if err != nil {
		return nil, fmt.Errorf("learn netd's own capabilities: %w", err)
	}
	return capabilityStrings(slices.DeleteFunc(capability.ListKnown(), func(c capability.Cap) bool {
		return !own.Get(capability.BOUNDING, c)
	})), nil
}

func capabilityStrings(caps []capability.Cap) []string {
	var out []string
	for _, c := range caps {
		out = append(out, "CAP_"+strings.ToUpper(c.String()))
	}
	return out
}
