package plan

import "strings"

// Sysctl is a value under /proc/sys/net of one namespace. It has no owner
// mark: it is set when wanted and left as it is when no longer wanted.
type Sysctl struct {
	NS    NetNS
	Path  string // slash-separated below net/: "ipv4/ip_forward"
	Value string
}

// Key is the path of the value.
func (s Sysctl) Key() string { return in(s.NS, "net/"+s.Path) }

func (s Sysctl) String() string {
	return words(s.NS, "sysctl", "net/"+s.Path, "=", s.Value)
}

// Link is the link a value is tied to, for keys such as
// "ipv4/conf/<link>/route_localnet"; it is empty for all others.
func (s Sysctl) Link() string {
	parts := strings.Split(s.Path, "/")
	if len(parts) != 4 || parts[1] != "conf" && parts[1] != "neigh" {
		return ""
	}
	if parts[2] == "all" || parts[2] == "default" {
		return ""
	}
	return parts[2]
}

// normal is the value as the kernel prints it back: single spaces.
func (s Sysctl) normal() string { return strings.Join(strings.Fields(s.Value), " ") }

func (s Sysctl) about() about { return about{kind: "sysctl", ns: s.NS, link: s.Link()} }
