package reconcile

import (
	"errors"

	"github.com/vethloom/vethloom/plan"
)

// view is one look at everything: what all owners want and what there is.
type view struct {
	owners []plan.Owner
	wants  map[plan.Owner]plan.State
	want   plan.State // the union of wants
	have   plan.State
	errs   map[plan.Owner]error // owners that have not what they want
	aside  map[plan.Owner]bool  // and those of them that nothing is done about
	kept   map[plan.Owner]plan.State

	owner map[string]plan.Owner // by kind and key of wanted objects; made when first needed
}

// fail notes that an operation of an owner has failed. One that has all or nothing wants nothing from now on; others
// are set aside, and it too when even that fails.
func (v *view) fail(s plan.Owner, err error, whole bool) {
	if v.errs[s] != nil || !whole {
		v.aside[s] = true
	}
	if v.errs[s] != nil {
		return
	}
	v.errs[s] = err
	if whole {
		v.wants[s] = plan.State{}
		v.unite()
	}
}

func (v *view) unite() {
	states := make([]plan.State, 0, len(v.wants))
	for _, w := range v.wants {
		states = append(states, w)
	}
	v.want = plan.Union(states...)
}

// ops is the difference, without what belongs to the owners set aside: neither are they
// completed nor is what they have taken away.
func (v *view) ops() []plan.Op {
	ops := plan.Diff(v.want, v.have)
	if len(v.aside) == 0 {
		return ops
	}
	out := ops[:0]
	for _, op := range ops {
		if s, ok := v.ownerOf(op); ok && v.aside[s] {
			continue
		}
		out = append(out, op)
	}
	return out
}

// blame finds the owner whose operation failed.
func (v *view) blame(err error) (plan.Owner, bool) {
	var failed *plan.OpError
	if !errors.As(err, &failed) {
		return "", false
	}
	s, ok := v.ownerOf(failed.Op)
	if !ok || v.aside[s] {
		return "", false
	}
	return s, true
}

func (v *view) ownerOf(op plan.Op) (plan.Owner, bool) {
	if v.owner == nil {
		v.owner = map[string]plan.Owner{}
		for s, w := range v.kept {
			v.claim(s, w)
		}
		for s, w := range v.wants {
			v.claim(s, w)
		}
	}
	if s, ok := v.owner[op.Kind()+" "+op.Object.Key()]; ok {
		return s, true
	}
	if s := op.Owner(); s != "" {
		return s, true
	}
	return v.linkOwner(op)
}

func (v *view) claim(s plan.Owner, w plan.State) {
	for o := range w.Objects() {
		v.owner[plan.KindOf(o)+" "+o.Key()] = s
	}
}

// linkOwner is the owner of the link that an address, route or neighbour is on.
func (v *view) linkOwner(op plan.Op) (plan.Owner, bool) {
	ns, name := plan.LinkOf(op.Object)
	if name == "" {
		return "", false
	}
	for _, l := range v.have.Links {
		if l.NS == ns && l.Name == name || l.Peer.NS == ns && l.Peer.Name == name {
			return l.Owner, l.Owner != ""
		}
	}
	return "", false
}
