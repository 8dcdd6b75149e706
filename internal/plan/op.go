package plan

// Verb is what an [Op] does to its object.
type Verb string

// The verbs. Purge only applies to a [Flow].
const (
	Create Verb = "create"
	Modify Verb = "modify"
	Delete Verb = "delete"
	Purge  Verb = "purge"
)

// Object is one kernel object of a [State]: Namespace, Link, Addr, Route,
// Neigh, FDBEntry, Tunnel, Remote, Sysctl, PortHold, Chain, Set, Element, ForeignAccept or Flow.
type Object interface {
	// Key identifies the object among those of its type, whatever its attributes.
	Key() string
	// String describes the object on one line, in the words of ip(8) and nft(8).
	String() string
}

// Op is one step from one state to another.
type Op struct {
	Verb   Verb
	Object Object // what should be, or for Delete and Purge what should go
	Old    Object // for Modify: what is there now; otherwise nil
}

// String is one line: "create link vlb-3f2a bridge mtu 1500 up".
func (o Op) String() string { return string(o.Verb) + " " + o.Object.String() }

// Kind is the word for the object's type, see [KindOf].
func (o Op) Kind() string { return KindOf(o.Object) }

// NS is the network namespace the object lives in.
func (o Op) NS() NetNS { return NetNSOf(o.Object) }

// Scope is the owner the object names, or "" for objects that name none: they
// belong to whoever owns the link or namespace they are in.
func (o Op) Scope() Scope {
	switch x := o.Object.(type) {
	case Link:
		return x.Scope
	case Element:
		return x.Scope
	case PortHold:
		return x.Scope
	}
	return ""
}

// Flow selects connection tracking entries to forget, because a rule that decided
// them has changed. It is never observed; [Diff] derives it from port map elements
// and endpoint addresses that come, go or change.
type Flow struct {
	Proto L4     // with Dst: the transport
	Dst   string // original destination "addr:port" or "addr:from-to"; addr may be a prefix
	Keep  string // with Dst: spare flows that already lead there, "addr" or "addr:port"
	Addr  string // or: every flow that an address is the original or reply source of
}
