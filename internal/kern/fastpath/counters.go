package fastpath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/vethloom/vethloom/plan"
)

// Reason is why a packet took its path.
type Reason int

// The reasons, as bpf/fastpath.c has them.
const (
	Fast      Reason = iota // none: it took the fast one
	Other                   // not for an endpoint that a fast path leads to
	Form                    // fragments, options, other protocols, the end of its hops
	Sender                  // not from the endpoint or node that it says it is from
	Via                     // addressed on the link to somebody else than whom its destination is behind
	Size                    // larger than the path takes
	Published               // of a port that connection tracking may have translated
	Refused                 // by the kernel
	reasons
)

func (r Reason) String() string {
	return [...]string{"fast", "elsewhere", "unusual", "sender", "neighbour", "size", "published", "refused"}[r]
}

// Counts are how much took which path, by reason.
type Counts struct {
	Packets, Bytes [reasons]uint64
}

// PutCounter counts a network's packets from now on. One that is counted already goes on.
func (p *Path) PutCounter(c plan.FastCounter) error {
	o, err := p.objects()
	if err != nil {
		return err
	}
	n, err := numberOf(c.Network)
	if err != nil {
		return err
	}
	zero := make([]Counts, ebpf.MustPossibleCPU())
	if err := o.Traffic.Update(n, zero, ebpf.UpdateNoExist); !errors.Is(err, ebpf.ErrKeyExist) {
		return full("traffic", err)
	}
	return nil
}

// DeleteCounter forgets a network's counts.
func (p *Path) DeleteCounter(c plan.FastCounter) error {
	n, err := numberOf(c.Network)
	return errors.Join(err, drop(p, n, func(o *kernelObjects) *ebpf.Map { return o.Traffic }))
}

// Counters are the networks that are counted.
func (p *Path) Counters() (out []plan.FastCounter, err error) {
	return out, list(p, func(o *kernelObjects) *ebpf.Map { return o.Traffic }, func(n number, _ []Counts) {
		out = append(out, plan.FastCounter{Network: n.network()})
	})
}

// Count is how much of a network took which path since it is counted.
func (p *Path) Count(network plan.FastNetwork) (sum Counts, err error) {
	o := p.found()
	n, err := numberOf(network)
	if o == nil || err != nil {
		return sum, err
	}
	var each []Counts
	if err := o.Traffic.Lookup(n, &each); err != nil {
		return sum, absent(fmt.Errorf("read the counts of network %s: %w", network, err))
	}
	for _, c := range each {
		for r := range reasons {
			sum.Packets[r] += c.Packets[r]
			sum.Bytes[r] += c.Bytes[r]
		}
	}
	return sum, nil
}
