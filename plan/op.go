package plan

// Verb is what an [Op] does to its object.
type Verb string

// The verbs. Purge only applies to a [ConntrackFlush].
const (
	Create Verb = "create"
	Modify Verb = "modify"
	Delete Verb = "delete"
	Purge  Verb = "purge"
)

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

// Owner is the owner the object names, or "" for objects that name none: they
// belong to the owner of the link or namespace they are in.
func (o Op) Owner() Owner { return o.Object.about().owner }
