package lab

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// DefaultDir is where labs live unless they are told otherwise.
const DefaultDir = "/run/vethloom-lab"

// Underlay is the name of the namespace that joins the nodes.
const Underlay = "underlay"

// maxNodes is what the addresses of the underlay are enough for.
const maxNodes = 50

// Etcd says which store the nodes share.
type Etcd string

// The stores a lab can have.
const (
	EtcdNone     Etcd = "none"     // each node keeps to itself
	EtcdSingle   Etcd = "single"   // one member: etcd where it is installed, else the embedded one
	EtcdCluster  Etcd = "cluster"  // three members of the installed etcd
	EtcdEmbedded Etcd = "embedded" // one member: the server that netd has inside
)

// Config is what a lab is made from. The zero value of a field means its default.
type Config struct {
	Name    string `json:"name"`              // "lab"
	Dir     string `json:"dir"`               // parent directory of labs: [DefaultDir]
	Nodes   int    `json:"nodes"`             // 3
	Etcd    Etcd   `json:"etcd"`              // [EtcdSingle]
	IPv6    bool   `json:"ipv6,omitempty"`    // the underlay has IPv6 addresses as well
	Routers bool   `json:"routers,omitempty"` // two subnets with a router between them: the later nodes are beyond it
	Plain   bool   `json:"plain,omitempty"`   // links without offloads, as with a simple network card
	NoImage bool   `json:"noImage,omitempty"` // do not import busybox on each node
	// directory of netd, net, net-shim and netlab: VETHLOOM_BIN, else that of this program
	Bin   string   `json:"bin"`
	Flags []string `json:"flags,omitempty"` // further flags of netd; RUN/ is its --run
}

// Bind makes flags of a command line for what a lab is made of.
func (c *Config) Bind(f *pflag.FlagSet) {
	f.IntVar(&c.Nodes, "nodes", 3, "number of hosts")
	f.StringVar((*string)(&c.Etcd), "etcd", string(EtcdSingle),
		"single, cluster (three members), embedded (netd's own server), or none")
	f.BoolVar(&c.IPv6, "ipv6", false, "give the underlay IPv6 addresses as well")
	f.BoolVar(&c.Routers, "routers", false, "two subnets with a router between them; the later hosts are beyond it")
	f.BoolVar(&c.Plain, "plain", false, "links without offloads, as with a simple network card")
	f.BoolVar(&c.NoImage, "no-image", false, "do not import the image busybox on each host")
	f.StringArrayVar(&c.Flags, "netd-flag", nil, "a further flag of netd, such as --log-level=debug; may be repeated")
}

var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,19}$`)

// check completes the configuration and refuses what cannot be.
func (c *Config) check() error {
	if c.Name == "" {
		c.Name = "lab"
	}
	if err := checkName(c.Name); err != nil {
		return err
	}
	if c.Dir == "" {
		c.Dir = DefaultDir
	}
	if c.Nodes == 0 {
		c.Nodes = 3
	}
	if c.Nodes < 1 || c.Nodes > maxNodes {
		return fmt.Errorf("nodes %d: give 1 to %d", c.Nodes, maxNodes)
	}
	if c.Etcd == "" {
		c.Etcd = EtcdSingle
	}
	if !slices.Contains([]Etcd{EtcdNone, EtcdSingle, EtcdCluster, EtcdEmbedded}, c.Etcd) {
		return fmt.Errorf("etcd %q: must be single, cluster, embedded or none", c.Etcd)
	}
	var err error
	if c.Dir, err = filepath.Abs(c.Dir); err != nil {
		return fmt.Errorf("directory of labs %q: %w", c.Dir, err)
	}
	if err := c.findPrograms(); err != nil {
		return err
	}
	return c.checkEtcd()
}

func checkName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("name %q: give up to 20 of a-z, 0-9 and '-', such as \"lab\"", name)
	}
	return nil
}

func (c *Config) findPrograms() error {
	if c.Bin == "" {
		c.Bin = os.Getenv("VETHLOOM_BIN")
	}
	if c.Bin == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find the path of this program: %w", err)
		}
		c.Bin = filepath.Dir(self)
	}
	for _, name := range []string{"netd", "net", "net-shim", "net-copy", "net-resolver", "net-relay"} {
		if _, err := os.Stat(filepath.Join(c.Bin, name)); err != nil {
			return fmt.Errorf("%s is not in %s: run make build, or name the directory in VETHLOOM_BIN", name, c.Bin)
		}
	}
	for _, name := range []string{"ip", "nsenter", "unshare", "setsid", "nft"} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("a lab needs %s: make deps installs it", name)
		}
	}
	return nil
}

func (c *Config) checkEtcd() error {
	_, missing := exec.LookPath("etcd")
	switch {
	case c.Etcd == EtcdCluster && missing != nil:
		return fmt.Errorf("etcd cluster: etcd is not installed (package etcd-server): install it, or take single")
	case c.Etcd == EtcdSingle && missing != nil:
		c.Etcd = EtcdEmbedded
	}
	if c.Etcd != EtcdEmbedded {
		return nil
	}
	if _, err := os.Stat(filepath.Join(c.Bin, "netlab")); err != nil {
		return fmt.Errorf("etcd embedded: netlab, which runs it, is not in %s: run make build", c.Bin)
	}
	return nil
}

// Kind says what a member of the underlay is.
type Kind string

// The kinds of members.
const (
	Node   Kind = "node"
	Server Kind = "etcd"
)

// Member is a host of the lab: a namespace on the underlay with one daemon in it.
type Member struct {
	Name  string     `json:"name"` // n1, n2, …; e1, e2, … of etcd; the name of its port on the underlay as well
	Kind  Kind       `json:"kind"`
	Far   bool       `json:"far,omitempty"` // beyond the router
	Addr4 netip.Addr `json:"addr4"`
	Addr6 netip.Addr `json:"addr6,omitzero"`
	Proc  Process    `json:"proc,omitzero"`
	Off   bool       `json:"off,omitempty"` // its namespace is gone, as after a power failure
}

// segment is one subnet of the underlay.
type segment struct {
	bridge string
	v4, v6 netip.Prefix // the router's own address
}

// The documentation ranges of RFC 5737 and RFC 3849: nobody's own network is in the way.
func (c Config) segments() []segment {
	if !c.Routers {
		return []segment{{"br0", netip.MustParsePrefix("192.0.2.254/24"), netip.MustParsePrefix("2001:db8::fe/64")}}
	}
	return []segment{
		{"br0", netip.MustParsePrefix("192.0.2.126/25"), netip.MustParsePrefix("2001:db8::fe/64")},
		{"br1", netip.MustParsePrefix("192.0.2.254/25"), netip.MustParsePrefix("2001:db8:0:1::fe/64")},
	}
}

func (c Config) segment(m Member) segment {
	s := c.segments()
	if m.Far {
		return s[1]
	}
	return s[0]
}

// firstServer is the host part of the first etcd member's address.
const firstServer = 101

// members are the hosts a configuration asks for.
func (c Config) members() []Member {
	var out []Member
	add := func(kind Kind, prefix string, i, host int, far bool) {
		m := Member{Name: fmt.Sprintf("%s%d", prefix, i), Kind: kind, Far: far}
		s := c.segment(m)
		m.Addr4 = hostAddr(s.v4, host)
		if c.IPv6 {
			m.Addr6 = hostAddr(s.v6, host)
		}
		out = append(out, m)
	}
	servers := map[Etcd]int{EtcdSingle: 1, EtcdEmbedded: 1, EtcdCluster: 3}[c.Etcd]
	for i := range servers {
		add(Server, "e", i+1, firstServer+i, false)
	}
	near := (c.Nodes + 1) / 2
	for i := range c.Nodes {
		add(Node, "n", i+1, i+1, c.Routers && i >= near)
	}
	return out
}

// hostAddr is the subnet's address with this last byte, counted from the subnet's first address.
func hostAddr(p netip.Prefix, host int) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	b[len(b)-1] += byte(host)
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Endpoints are the URLs of the lab's etcd, joined by commas; empty without etcd.
func (l *state) Endpoints() string {
	var urls []string
	for _, m := range l.Members {
		if m.Kind == Server {
			urls = append(urls, "http://"+netip.AddrPortFrom(m.Addr4, 2379).String())
		}
	}
	return strings.Join(urls, ",")
}
