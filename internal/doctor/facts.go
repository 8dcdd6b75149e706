package doctor

import (
	"net/netip"
	"time"
)

// Facts are what is known about a host. A zero number, an empty text or a nil
// list is a fact that the host does not show, for instance a sysctl that only
// exists in the first network namespace; checks are silent about those.
type Facts struct {
	Unknown []string // what could not be found out, and why

	CNI       []CNIConfig // in the order in which runtimes look at them
	CNIPlugin bool        // our plugin is where runtimes look for plugins
	Engines   Engines     // of others

	Release  string    // of the kernel: "6.1.0-28-amd64"
	Features []Feature // tried in a network namespace of their own

	Sysctls        map[string]string // below net/, of the fabric's namespace: "ipv4/ip_forward"
	StrictLinks    []string          // links that rp_filter is strict for
	DeadEnds       []string          // links by which no IPv4 comes in to be forwarded
	Deaf           []string          // links that take no IPv6 configuration from routers, and have none
	ForwardDrops   []string          // forward chains of others that drop what nobody accepts: "ip filter FORWARD"
	Blockers       []Blocker         // rules of others that have stopped what is forwarded
	Firewall       string            // what has netd's rules: nftables, iptables (nft), iptables (legacy)
	DockerUser     bool              // a chain DOCKER-USER takes rules of others
	Processes      []string          // other network tools that run: dockerd, firewalld, …
	UFW            bool              // enabled in its configuration
	HostPrefixes   []netip.Prefix    // where the host's own routes and addresses lead
	Networks       []Subnet          // of vethloom's networks
	LostOutbound   []string          // addresses the host does not have, and who is to leave by them
	ConntrackCount int
	ConntrackMax   int

	Cgroup      string   // v1, v2 or hybrid
	Controllers []string // those a container's cgroup can use
	Seccomp     bool
	UserNS      int // how many user namespaces may be made; 0: none
	Overlay     bool
	AppArmor    bool
	SELinux     string // "", permissive, enforcing

	OpenFiles        uint64 // soft limit of this process
	InotifyInstances int    // a user
	StateDir         string
	DiskFree         uint64 // bytes in StateDir's file system; see DiskTotal
	DiskTotal        uint64 // 0: not known
	Inodes           uint64 // free ones; see InodesTotal
	InodesTotal      uint64 // 0: the file system counts none
	Now              time.Time
	ClockUnsynced    bool

	Cluster *Cluster // nil: this node is in none

	FastPath *FastPath // nil: it is switched off
}

// Feature is something the kernel was asked to do.
type Feature struct {
	Name string // "bridge", "nft nat maps", …
	Err  error  // nil: it did
}

// Blocker is a rule of others that has stopped packets.
type Blocker struct {
	Chain, Rule string
	Packets     uint64
}

// Subnet is one subnet of a network.
type Subnet struct {
	Network string
	Prefix  netip.Prefix
}
