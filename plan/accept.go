package plan

// ForwardAccept lets what bridges of vethloom forward pass the FORWARD chain of
// another tool that drops what it does not know, as dockerd's does: a packet that one base chain
// drops is gone, whatever ours says. It is a pair of iptables rules that accept what comes in or goes
// out by the links, where that tool looks for them: in the chain DOCKER-USER if there is one, else in FORWARD,
// behind what stands there, but for a last rule that is about every packet. They carry the comment "vethloom".
type ForwardAccept struct {
	Family string // ip or ip6
	Links  string // a link's name, or what names begin with and "+", as iptables writes it
}

// Key identifies the pair of rules: "ip vlb-+".
func (a ForwardAccept) Key() string { return a.Family + " " + a.Links }

// String is one line: "ip filter FORWARD accept vlb-+".
func (a ForwardAccept) String() string { return a.Family + " filter FORWARD accept " + a.Links }

func (a ForwardAccept) about() about { return about{kind: "accept"} }
