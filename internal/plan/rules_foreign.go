package plan

// ForeignAccept lets what bridges of vethloom forward pass the FORWARD chain of
// another tool that drops what it does not know, as dockerd's does: a packet that one base chain
// drops is gone, whatever ours says. It is a pair of iptables rules that accept what comes in or goes
// out by a link "vlb-*", where that tool looks for them: in the chain
// DOCKER-USER if there is one, else in FORWARD. They carry the comment "vethloom".
type ForeignAccept struct {
	Family string // ip or ip6
}

// Key identifies the pair of rules: "ip".
func (a ForeignAccept) Key() string { return a.Family }

// String is one line: "ip filter FORWARD accept vlb-*".
func (a ForeignAccept) String() string { return a.Family + " filter FORWARD accept vlb-*" }
