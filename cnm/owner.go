package cnm

import (
	"strings"

	"github.com/vethloom/vethloom/plan"
)

// ShortLen is the number of hex digits of an ID that owners and namespace
// names hold. LinkLen is the number that link names hold: the controller gives out no ID
// whose first LinkLen digits are those of a live record of the same kind.
const (
	ShortLen = 12
	LinkLen  = 8
)

// Short is the first [ShortLen] digits of an ID.
func Short(id string) string { return id[:min(len(id), ShortLen)] }

// minPrefix is how many digits a beginning stands for an ID with. Fewer are rather a name that somebody mistyped.
const minPrefix = 4

// Begins reports whether ref is a beginning that stands for an ID.
func Begins(id, ref string) bool { return len(ref) >= minPrefix && strings.HasPrefix(id, ref) }

// FabricOwner owns what all networks share.
const FabricOwner plan.Owner = "fabric"

// NetworkOwner is the owner of what a network's endpoints share.
func NetworkOwner(id string) plan.Owner { return plan.Owner("network/" + Short(id)) }

// NamesOwner is the owner of the name servers at a network's gateways. It belongs to no record of its own.
func NamesOwner(network string) plan.Owner { return plan.Owner("names/" + Short(network)) }

// FastNetwork is how the fast path knows a network; "" where its ID is too short to be one.
func FastNetwork(n Network) plan.FastNetwork {
	const digits = 16
	if len(n.ID) < digits {
		return ""
	}
	return plan.FastNetwork(n.ID[:digits])
}

// FastOwner is the owner of what an owner has on the fast path. It is one of its own, so that what is needed does not
// fail with what makes it faster.
func FastOwner(of plan.Owner) plan.Owner { return fastPrefix + of }

// FastOf is the owner that a [FastOwner] belongs to.
func FastOf(o plan.Owner) (of plan.Owner, ok bool) {
	rest, ok := strings.CutPrefix(string(o), fastPrefix)
	return plan.Owner(rest), ok
}

const fastPrefix = "fast/"

// SandboxOwner is the owner of a sandbox's namespace.
func SandboxOwner(id string) plan.Owner { return plan.Owner("sandbox/" + Short(id)) }

// EndpointOwner is the owner of what one endpoint has.
func EndpointOwner(id string) plan.Owner { return plan.Owner("endpoint/" + Short(id)) }

// ParseOwner splits an owner into the kind of record it belongs to and the short
// ID; ok is false for one that belongs to no record.
func ParseOwner(s plan.Owner) (kind Kind, short string, ok bool) {
	k, short, found := strings.Cut(string(s), "/")
	switch kind = Kind(k); kind {
	case KindNetwork, KindSandbox, KindEndpoint:
		return kind, short, found && short != ""
	}
	return "", "", false
}
