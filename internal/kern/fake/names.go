package fake

import "github.com/vethloom/vethloom/plan"

// name adds or changes what a resolver knows, or where it answers.
func (t *tables) name(v plan.Verb, o plan.Object) error {
	switch o := o.(type) {
	case plan.NameZone:
		return put(t.zones, v, o)
	case plan.NameMember:
		return put(t.members, v, o)
	case plan.NameServer:
		if err := t.place(o.NS, o.Link); err != nil {
			return err
		}
		return put(t.servers, v, o)
	}
	return errKind
}

// forgetName reports whether there was what is taken away.
func (t *tables) forgetName(o plan.Object) bool {
	switch o := o.(type) {
	case plan.NameZone:
		return take(t.zones, o)
	case plan.NameMember:
		return take(t.members, o)
	case plan.NameServer:
		return take(t.servers, o)
	}
	return false
}
