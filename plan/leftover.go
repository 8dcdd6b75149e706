package plan

// Leftover is what vethloom once put into another firewall than the one that has its rules now. Nobody wants it, so
// where it is seen it goes, but only once the rules are where they belong: connections go on.
type Leftover struct {
	In string // nftables, iptables-nft, iptables-legacy
}

// Key identifies it: "nftables".
func (l Leftover) Key() string { return l.In }

// String is one line: "rules of ours in iptables-legacy".
func (l Leftover) String() string { return "rules of ours in " + l.In }

func (l Leftover) about() about { return about{kind: "leftover"} }
