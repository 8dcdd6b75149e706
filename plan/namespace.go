package plan

import "strings"

// Namespace is a pinned network namespace. Its loopback link is brought up
// when it is pinned.
type Namespace struct {
	Name NetNS
	// Path is where somebody else has it, who made it and removes it, and Cookie its SO_NETNS_COOKIE; "" and 0 for one
	// that is made when it is wanted.
	Path   string
	Cookie uint64
}

// adopted is what the names of namespaces begin with that others have made.
const adopted = "adopted-"

// AdoptedNetNS is the name of a namespace that somebody else has made. What is ours in it is removed piece by piece,
// as the namespace may go on without us.
func AdoptedNetNS(id string) NetNS { return NetNS(adopted + id) }

// Adopted reports whether somebody else has made the namespace.
func (n NetNS) Adopted() bool { return strings.HasPrefix(string(n), adopted) }

// Key is the namespace's name.
func (n Namespace) Key() string { return string(n.Name) }

func (n Namespace) String() string {
	if n.Path != "" {
		return "netns " + string(n.Name) + " from " + n.Path
	}
	return "netns " + string(n.Name)
}

func (n Namespace) about() about { return about{kind: "namespace", ns: n.Name} }
