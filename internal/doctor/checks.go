package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vethloom/vethloom/internal/linkname"
)

// Minimum kernel: concatenated interval sets and maps in nftables (5.6), and
// what else the fabric uses is older.
const minMajor, minMinor = 5, 6

func unknown(f Facts) []Finding {
	var out []Finding
	for _, u := range f.Unknown {
		out = append(out, Finding{"examination", Warning, "could not look: " + u,
			"run netd as root, in the namespace it serves"})
	}
	return out
}

func kernelVersion(f Facts) []Finding {
	const check = "kernel version"
	major, minor, ok := parseRelease(f.Release)
	switch {
	case f.Release == "":
		return nil
	case !ok:
		return finding(check, Info, f.Release+" is not of the usual form",
			"nothing to do as long as the features below are ok")
	case major < minMajor || major == minMajor && minor < minMinor:
		return finding(check, Error, fmt.Sprintf("%s; %d.%d or later is needed", f.Release, minMajor, minMinor),
			"install a newer kernel: apt install linux-image-amd64, then reboot")
	}
	return fine(check, f.Release)
}

func parseRelease(r string) (major, minor int, ok bool) {
	parts := strings.FieldsFunc(r, func(c rune) bool { return c < '0' || c > '9' })
	if len(parts) < 2 || r[0] < '0' || r[0] > '9' {
		return 0, 0, false
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	return major, minor, err1 == nil && err2 == nil
}

// needs says what is lost without a feature, and which module has it.
var needs = map[string]struct {
	severity Severity
	lost     string
	remedy   string
}{
	"bridge":       {Error, "bridge networks", "modprobe bridge"},
	"veth":         {Error, "every network but host and none", "modprobe veth"},
	"nft nat maps": {Error, "isolation and published ports", "modprobe -a nf_tables nft_nat nft_fib_inet nft_masq"},
	"nft bridge":   {Error, "source validation", "modprobe -a nf_tables nft_meta_bridge"},
	"conntrack":    {Error, "published ports", "modprobe -a nf_conntrack nf_conntrack_netlink nft_ct"},
	"vxlan":        {Warning, "overlay networks and the vxlan backend", "modprobe vxlan"},
	"tun":          {Warning, "the udp backend", "modprobe tun"},
	"macvlan":      {Info, "macvlan networks", "modprobe macvlan"},
	"rates": {Info, "rate-in and rate-out of containers",
		"modprobe -a sch_tbf sch_ingress cls_u32 act_mirred ifb"},
	"sctp": {Info, "publishing SCTP ports", "modprobe sctp"},
}

func features(f Facts) []Finding {
	var out []Finding
	for _, feature := range f.Features {
		check := "feature " + feature.Name
		if feature.Err == nil {
			out = append(out, fine(check, "works")...)
			continue
		}
		need, known := needs[feature.Name]
		if strings.HasPrefix(f.Firewall, "iptables") && strings.HasPrefix(feature.Name, "nft ") {
			need.severity, need.lost = Info, "firewall but that by iptables, which has the rules here"
		}
		if !known {
			need.severity, need.lost, need.remedy = Warning, feature.Name, "modprobe "+feature.Name
		}
		out = append(out, finding(check, need.severity, fmt.Sprintf("not available (%v): without it there is no %s",
			feature.Err, need.lost), need.remedy)...)
	}
	return out
}

// forwarding off is normal before the first bridge network: netd turns it on.
func forwarding(f Facts) []Finding {
	var out []Finding
	for _, c := range []struct{ check, path string }{{"IPv4 forwarding", "ipv4/ip_forward"},
		{"IPv6 forwarding", "ipv6/conf/all/forwarding"}} {
		switch v, known := f.Sysctls[c.path]; {
		case !known:
		case v == "0":
			out = append(out, finding(c.check, Warning, "off: containers reach their own network only",
				"sysctl -w net."+strings.ReplaceAll(c.path, "/",
					".")+"=1; if it comes back, look for what sets it: grep -r "+lastPart(
					c.path)+" /etc/sysctl.d /etc/sysctl.conf /usr/lib/sysctl.d")...)
		case c.check == "IPv4 forwarding" && len(f.DeadEnds) > 0:
			links := strings.Join(f.DeadEnds, ", ")
			out = append(out, finding(c.check, Warning, "off for what comes in by "+links+
				": it does not reach containers, and answers to them are lost",
				"sysctl -w net.ipv4.conf."+f.DeadEnds[0]+".forwarding=1, for each; systemd-networkd sets it by "+
					"IPv4Forwarding= in the link's .network file")...)
		default:
			out = append(out, fine(c.check, "on")...)
		}
	}
	return out
}

// outbound finds what leaves by an address that the host does not have, so that no answer comes back.
func outbound(f Facts) []Finding {
	var out []Finding
	for _, lost := range f.LostOutbound {
		out = append(out, finding("outbound address", Warning, "the host does not have "+lost+
			": no answer comes back", "give a link of the host the address, or choose another one: "+
			"net network update -o outbound-ip=…, or connect the container again")...)
	}
	return out
}

func lastPart(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

func ipv6(f Facts) []Finding {
	const check = "IPv6"
	if f.Sysctls == nil {
		return nil
	}
	switch v, known := f.Sysctls["ipv6/conf/all/disable_ipv6"]; {
	case !known:
		return finding(check, Info, "the kernel has none: networks with IPv6 cannot be made",
			"for IPv6, remove ipv6.disable=1 from GRUB_CMDLINE_LINUX in /etc/default/grub, then: update-grub && reboot")
	case v == "1":
		return finding(check, Info, "switched off on every link",
			"for IPv6: sysctl -w net.ipv6.conf.all.disable_ipv6=0")
	case len(f.Deaf) > 0:
		return finding(check, Info, "on, but what a router advertises is not taken by "+strings.Join(f.Deaf, ", ")+
			", which came when the host forwarded already",
			"if IPv6 comes by such a link: sysctl -w net.ipv6.conf."+f.Deaf[0]+".accept_ra=2")
	}
	return fine(check, "on")
}

func foreignForward(f Facts) []Finding {
	const check = "foreign forward policy"
	if len(f.ForwardDrops) == 0 {
		return fine(check, "nobody else drops forwarded packets")
	}
	var remedies []string
	for _, c := range f.ForwardDrops {
		family, chain, _ := strings.Cut(c, " ") // "inet filter forward"
		tool := map[string]string{"ip filter FORWARD": "iptables", "ip6 filter FORWARD": "ip6tables"}[c]
		for _, way := range []string{"i", "o"} {
			r := fmt.Sprintf(`nft insert rule %s %s %sifname "%s*" accept`, family, chain, way, linkname.Bridge)
			if tool != "" {
				r = fmt.Sprintf("%s -I FORWARD -%s '%s+' -j ACCEPT", tool, way, linkname.Bridge)
			}
			if tool != "" && f.DockerUser {
				r = strings.ReplaceAll(r, "FORWARD", "DOCKER-USER")
			}
			remedies = append(remedies, r)
		}
	}
	remedy := strings.Join(remedies, "; ")
	return finding(check, Warning,
		"dropped unless accepted by "+strings.Join(f.ForwardDrops,
			", ")+": containers may reach nothing outside, and published ports may be closed", remedy)
}

// blockers names the rules that stop what is forwarded: their counters tell.
func blockers(f Facts) []Finding {
	var out []Finding
	for _, b := range f.Blockers {
		family, rest, _ := strings.Cut(b.Chain, " ")
		out = append(out, finding("foreign forward rule", Warning,
			fmt.Sprintf("%q in %s has stopped %d packets on their way through the host", b.Rule, b.Chain, b.Packets),
			fmt.Sprintf("if the counter moves when a container sends: nft insert rule %s %s iifname \"%s*\" accept, "+
				"or what the tool has for it", family, rest, linkname.Bridge))...)
	}
	return out
}

func bridgeNetfilter(f Facts) []Finding {
	const check = "bridge netfilter"
	on4, on6 := f.Sysctls["bridge/bridge-nf-call-iptables"] == "1", f.Sysctls["bridge/bridge-nf-call-ip6tables"] == "1"
	switch {
	case f.Sysctls == nil:
		return nil
	case on6:
		return finding(check, Warning, "on for IPv6: frames within a network run through the host's firewall, and "+
			"ports published on ::1 do not answer",
			"netd --bridge-netfilter off (or: sysctl -w net.bridge.bridge-nf-call-ip6tables=0), unless another "+
				"tool needs it")
	case on4:
		return finding(check, Info, "on for IPv4: frames within a network run through the host's firewall, at a cost",
			"netd --bridge-netfilter off (or: sysctl -w net.bridge.bridge-nf-call-iptables=0), unless another "+
				"tool needs it")
	}
	return fine(check, "off")
}

func otherTools(f Facts) []Finding {
	var out []Finding
	hints := map[string]string{
		"firewalld": "if containers cannot get out: firewall-cmd --permanent --zone=trusted --add-source=<subnet> " +
			"&& firewall-cmd --reload, for each network's subnet",
		"dockerd": "nothing as long as subnets do not overlap; see foreign forward policy",
		"k3s":     "choose subnets outside the cluster's: net network create --subnet …",
		"kubelet": "choose subnets outside the cluster's: net network create --subnet …",
		"flanneld": "choose subnets outside flannel's network: net network create --subnet …; or join it: net " +
			"network create -o flannel.prefix=…",
	}
	for _, p := range f.Processes {
		if hint, known := hints[p]; known {
			out = append(out, finding("other tools", Info, p+" runs on this host", hint)...)
		}
	}
	if f.UFW {
		out = append(out, finding("other tools", Warning, "ufw is enabled: by default it drops what is forwarded",
			"ufw route allow in on vlb-<id>; ufw route allow out on vlb-<id>, for each bridge (net network "+
				"inspect shows it), or: ufw default allow routed")...)
	}
	if out == nil {
		return fine("other tools", "no other network tool found")
	}
	return out
}

func overlaps(f Facts) []Finding {
	var out []Finding
	for _, n := range f.Networks {
		i := slices.IndexFunc(f.HostPrefixes, func(p netip.Prefix) bool { return p.Bits() > 0 && p.Overlaps(n.Prefix) })
		if i >= 0 {
			out = append(out, finding("subnet overlap", Warning,
				fmt.Sprintf("network %s has %s, and the host has a route to %s: one of them is not reachable",
					n.Network, n.Prefix, f.HostPrefixes[i]),
				fmt.Sprintf("make the network anew elsewhere: net network rm %s && net network create --subnet %s %s",
					n.Network, elsewhere(f, n.Prefix), n.Network))...)
		}
	}
	if out == nil {
		return fine("subnet overlap", "no network overlaps a route of the host")
	}
	return out
}

// elsewhere is a subnet of the same family that nothing on the host is in the way of.
func elsewhere(f Facts, instead netip.Prefix) string {
	for _, s := range []string{"10.213.0.0/24", "172.30.213.0/24", "192.168.213.0/24", "fd00:213::/64"} {
		p := netip.MustParsePrefix(s)
		if p.Addr().Is4() == instead.Addr().Is4() && !slices.ContainsFunc(f.HostPrefixes, p.Overlaps) &&
			!slices.ContainsFunc(f.Networks, func(n Subnet) bool { return p.Overlaps(n.Prefix) }) {
			return s
		}
	}
	return "SUBNET, one that nobody here has to reach,"
}

func reversePath(f Facts) []Finding {
	const check = "reverse path filter"
	if f.Sysctls == nil {
		return nil
	}
	if len(f.StrictLinks) == 0 {
		return fine(check, "not strict")
	}
	return finding(check, Info, "strict on "+strings.Join(f.StrictLinks,
		", ")+": fine on one host; answers that come back by another link are dropped",
		"only with more than one uplink: sysctl -w net.ipv4.conf.all.rp_filter=2")
}

func reservedPorts(f Facts) []Finding {
	v := f.Sysctls["ipv4/ip_local_reserved_ports"]
	if v == "" {
		return nil
	}
	return finding("reserved ports", Info,
		"the kernel keeps "+v+" from automatic use: dynamic host ports skip them too",
		"to free them: sysctl -w net.ipv4.ip_local_reserved_ports=")
}

// conntrack: an entry a connection; when the table is full, new ones are dropped.
func conntrack(f Facts) []Finding {
	const check = "conntrack table"
	if f.ConntrackMax == 0 {
		return nil
	}
	found := fmt.Sprintf("%d of %d entries in use", f.ConntrackCount, f.ConntrackMax)
	remedy := fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d", 4*f.ConntrackMax)
	switch {
	case f.ConntrackCount*10 >= f.ConntrackMax*9:
		return finding(check, Error, found+": new connections are about to be dropped", remedy)
	case f.ConntrackCount*10 >= f.ConntrackMax*7:
		return finding(check, Warning, found, remedy)
	}
	return fine(check, found)
}

// minNeighbours is enough for a network of a thousand containers and its peers.
const minNeighbours = 4096

func neighbours(f Facts) []Finding {
	var out []Finding
	for _, family := range []string{"ipv4", "ipv6"} {
		path := family + "/neigh/default/gc_thresh3"
		n, err := strconv.Atoi(f.Sysctls[path])
		if err != nil {
			continue // only the first namespace has it
		}
		check := "neighbour table " + family
		if n >= minNeighbours {
			out = append(out, fine(check, fmt.Sprintf("room for %d", n))...)
			continue
		}
		key := "net." + family + ".neigh.default.gc_thresh"
		out = append(out, finding(check, Info,
			fmt.Sprintf("room for %d: too few for hosts with thousands of containers or peers", n),
			fmt.Sprintf("sysctl -w %s1=8192 %s2=49152 %s3=65536", key, key, key))...)
	}
	return out
}
