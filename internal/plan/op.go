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
// Neigh, FDBEntry, Sysctl, PortHold, Chain, Set, Element or Flow.
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

// Flow selects connection tracking entries to forget, because a rule that decided
// them has changed. It is never observed; [Diff] derives it from port map elements
// and endpoint addresses that come, go or change.
type Flow struct {
	Proto L4     // with Dst: the transport
	Dst   string // original destination "addr:port" or "addr:from-to"; addr may be a prefix
	Addr  string // or: every flow that an address is the original or reply source of
}
