package cnm

import (
	"strings"

	"github.com/vethloom/vethloom/internal/plan"
)

// ShortLen is the number of hex digits of an ID that scopes and namespace
// names hold. LinkLen is the number that link names hold: the controller gives out no ID
// whose first LinkLen digits are those of a live record of the same kind.
const (
	ShortLen = 12
	LinkLen  = 8
)

// Short is the first [ShortLen] digits of an ID.
func Short(id string) string { return id[:min(len(id), ShortLen)] }

// NetworkScope is the reconciliation scope of what a network's endpoints share.
func NetworkScope(id string) plan.Scope { return plan.Scope("network/" + Short(id)) }

// SandboxScope is the reconciliation scope of a sandbox's namespace.
func SandboxScope(id string) plan.Scope { return plan.Scope("sandbox/" + Short(id)) }

// EndpointScope is the reconciliation scope of one endpoint.
func EndpointScope(id string) plan.Scope { return plan.Scope("endpoint/" + Short(id)) }

// ParseScope splits a scope into the kind of record it belongs to and the short
// ID; ok is false for a scope that belongs to no record.
func ParseScope(s plan.Scope) (kind Kind, short string, ok bool) {
	k, short, found := strings.Cut(string(s), "/")
	switch kind = Kind(k); kind {
	case KindNetwork, KindSandbox, KindEndpoint:
		return kind, short, found && short != ""
	}
	return "", "", false
}
