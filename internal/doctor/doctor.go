package doctor

import (
	"context"
	"slices"
)

// Severity says how much a finding matters.
type Severity string

// The severities.
const (
	OK      Severity = "ok"
	Info    Severity = "info"    // worth knowing
	Warning Severity = "warning" // something will not work, or not well
	Error   Severity = "error"   // containers will not have a network
)

// Finding is the result of one check.
type Finding struct {
	Check    string // short and stable: "kernel version", "feature bridge"
	Severity Severity
	Found    string
	Remedy   string // the command to run or the thing to do; "" when fine
}

// Probe gathers the facts about a host.
type Probe interface {
	// Facts returns what could be found out; what could not is among [Facts.Unknown].
	Facts(context.Context) Facts
}

// Run examines a host. Errors come first, then warnings; otherwise findings
// are in the order of the checks.
func Run(ctx context.Context, p Probe) []Finding {
	return Examine(p.Facts(ctx))
}

// Examine judges facts.
func Examine(f Facts) []Finding {
	var all []Finding
	for _, check := range []func(Facts) []Finding{
		unknown, kernelVersion, features, forwarding, ipv6, foreignForward, blockers, bridgeNetfilter,
		otherTools, overlaps, outbound, reversePath, reservedPorts, conntrack, neighbours,
		cgroups, isolation, security, limits, disk, clock, cluster, dockerJoined, cniRuntimes,
		podmanJoined, fastPath,
	} {
		all = append(all, check(f)...)
	}
	rank := map[Severity]int{Error: 0, Warning: 1, Info: 2, OK: 2}
	slices.SortStableFunc(all, func(a, b Finding) int { return rank[a.Severity] - rank[b.Severity] })
	return all
}

func fine(check, found string) []Finding {
	return []Finding{{Check: check, Severity: OK, Found: found}}
}

func finding(check string, s Severity, found, remedy string) []Finding {
	return []Finding{{Check: check, Severity: s, Found: found, Remedy: remedy}}
}
