package plan

import "strings"

// Object is one kernel object of a [State], or a [ConntrackFlush]. Its types are those of this package: see kinds.go.
type Object interface {
	// Key identifies the object among those of its type, whatever its attributes.
	Key() string
	// String describes the object on one line, in the words of ip(8) and nft(8).
	String() string
	about() about
}

// about is what is known of every object.
type about struct {
	kind  string // the word for its type
	ns    NetNS  // the network namespace it lives in; that of rules and flows is the fabric's own
	link  string // the link it is, or sits on; "" for none
	owner Owner  // "" for objects that name none
}

// KindOf is the word for an object's type: namespace, link, addr, route, neigh, fdb, tunnel, remote, shaper, redirect,
// zone, name, nameserver, sysctl, port, chain, set, element, flow, accept, or a word that begins with fast-.
func KindOf(o Object) string { return o.about().kind }

// LinkOf names the link an object is or sits on. The name is empty for
// objects that belong to no link.
func LinkOf(o Object) (NetNS, string) {
	a := o.about()
	return a.ns, a.link
}

// NetNSOf is the network namespace an object lives in.
func NetNSOf(o Object) NetNS { return o.about().ns }

// in qualifies a key by the namespace; the fabric's own adds nothing. Neither
// namespaces nor links can have a slash in their names.
func in(ns NetNS, key string) string {
	if ns == "" {
		return key
	}
	return string(ns) + "/" + key
}

// words joins a line's parts and says last which namespace it is about.
func words(ns NetNS, parts ...string) string {
	line := strings.Join(parts, " ")
	if ns != "" {
		line += " netns " + string(ns)
	}
	return line
}
