package plan

// Namespace is a pinned network namespace. Its loopback link is brought up
// when it is created.
type Namespace struct {
	Name NetNS
}

// Key is the namespace's name.
func (n Namespace) Key() string { return string(n.Name) }

func (n Namespace) String() string { return "netns " + string(n.Name) }

func (n Namespace) about() about { return about{kind: "namespace", ns: n.Name} }
