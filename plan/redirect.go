package plan

// Redirect has all that comes in by a link go out by another one first, an [IFB] link, whose queue holds it to a rate.
// From there it comes in by the link as if nothing had been (tc-mirred(8)).
type Redirect struct {
	Link string // in the fabric's namespace, as is the other
	To   string
}

// Key is the link.
func (r Redirect) Key() string { return r.Link }

func (r Redirect) String() string { return "redirect dev " + r.Link + " to " + r.To }

func (r Redirect) about() about { return about{kind: "redirect", link: r.Link} }

func redirectKind() kind {
	return plain("redirect", func(s *State) *[]Redirect { return &s.Redirects },
		func(a, b Redirect) bool { return a.To == b.To })
}
