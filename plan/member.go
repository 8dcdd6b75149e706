package plan

// MemberLink makes a link that somebody else has made a port of a bridge of ours. The link itself stays theirs: nothing
// else of it changes, and it is let go when the bridge goes. One that carries addresses, or that is a port of
// something else, is refused ([UnfitLinkError]).
type MemberLink struct {
	Link   string // in the fabric's namespace, as is the bridge
	Bridge string
}

// Key is the link: it is a port of one bridge at most.
func (m MemberLink) Key() string { return m.Link }

func (m MemberLink) String() string { return "member " + m.Link + " master " + m.Bridge }

func (m MemberLink) about() about { return about{kind: "member", link: m.Bridge} }

func memberKind() kind {
	return plain("member", func(s *State) *[]MemberLink { return &s.Members },
		func(a, b MemberLink) bool { return a.Bridge == b.Bridge })
}
