// The two programs at the VXLAN device of a bridged network whose addresses are other nodes' by block. "resolve",
// where frames leave by the device, answers who asks for an address of a block, and leads what is for one to the
// node. "land", where they come out of it, gives what is for this node's bridge to the endpoint that it is for.
#pragma once

struct arp { // RFC 826, of IPv4 on Ethernet
	__u16 hardware, protocol;
	__u8 hardware_len, protocol_len;
	__u16 op;
	struct mac sha;
	__u16 spa[2]; // addresses are on even bytes alone
	struct mac tha;
	__u16 tpa[2];
};

#define ARP_ETHERNET net16(1)
#define ARP_REQUEST net16(1)
#define ARP_REPLY net16(2)

// A neighbour solicitation or advertisement (RFC 4861 sections 4.3 and 4.4), and the link-layer address behind it.
struct nd {
	__u8 type, code;
	__u16 check;
	__u32 flags;
	struct address target;
};

struct nd_link {
	__u8 type, units; // of eight bytes
	struct mac mac;
};

struct nd_answer {
	struct nd nd;
	struct nd_link link;
};

#define ND_ROUTER_SOLICITATION 133
#define ND_SOLICITATION 135
#define ND_ADVERTISEMENT 136
#define ND_SOLICITED_OVERRIDE net32(0x60000000)
#define ND_TARGET_LINK 2

INLINE int is_group(const __u8 first)
{
	return first == 0xff;
}

INLINE int unspecified(const struct address *a)
{
	return !(a->w[0] | a->w[1] | a->w[2] | a->w[3]);
}

INLINE __u32 joined(const __u16 w[2])
{
	__u32 a;

	__builtin_memcpy(&a, w, sizeof(a));
	return a;
}

// block_of is the way to the node that an address is of by block.
INLINE struct peer *block_of(__u64 network, const struct address *a)
{
	struct peer *p = peer_of(network, a);

	return p && p->flags & BLOCK ? p : 0;
}

// asked_for is the way to the node that has an address which somebody here asks for.
INLINE struct peer *asked_for(__u64 network, const struct address *a)
{
	return endpoint_at(network, a) ? 0 : block_of(network, a);
}

INLINE int is_arp(const struct arp *a)
{
	return a->hardware == ARP_ETHERNET && a->protocol == ETHER4 && a->hardware_len == sizeof(struct mac) &&
	       a->protocol_len == 4;
}

// back answers a frame: it comes out of the device that it was to leave by.
INLINE int back(struct __sk_buff *skb, const struct ether *h, const struct peer *p)
{
	struct ether e = {.dst = h->src, .src = p->via, .proto = h->proto};

	if (store_bytes(skb, 0, &e, sizeof(e), 0))
		return DROP;
	return redirect(skb->ifindex, BPF_F_INGRESS);
}

INLINE int answer_arp(struct __sk_buff *skb, __u64 network, const struct ether *h)
{
	struct address target;
	struct peer *p;
	struct arp a, reply;

	if (load_bytes(skb, sizeof(*h), &a, sizeof(a)) || !is_arp(&a) || a.op != ARP_REQUEST ||
	    !same_mac(&a.sha, &h->src))
		return NEXT;
	map4(&target, joined(a.tpa));
	p = asked_for(network, &target);
	if (!p)
		return NEXT;
	reply = a;
	reply.op = ARP_REPLY;
	reply.sha = p->via;
	__builtin_memcpy(reply.spa, a.tpa, sizeof(a.tpa));
	reply.tha = a.sha;
	__builtin_memcpy(reply.tpa, a.spa, sizeof(a.spa));
	if (store_bytes(skb, sizeof(*h), &reply, sizeof(reply), BPF_F_RECOMPUTE_CSUM))
		return NEXT;
	return back(skb, h, p);
}

// nd_check is the checksum of an advertisement (RFC 4443 section 2.3).
INLINE __u16 nd_check(const struct ip6 *ip, const struct nd_answer *a)
{
	const __u16 *p = (const void *)&ip->src;
	__u32 s = ip->len + net16(PROTO_ICMP6);

	for (int i = 0; i < 16; i++)
		s += p[i];
	p = (const void *)a;
	for (int i = 0; i < 16; i++)
		s += p[i];
	s = (s & 0xffff) + (s >> 16);
	s = (s & 0xffff) + (s >> 16);
	return ~s;
}

INLINE int answer_nd(struct __sk_buff *skb, __u64 network, const struct ether *h)
{
	struct {
		struct ip6 ip;
		struct nd_answer a;
	} reply = {};
	struct peer *p;
	struct ip6 ip;
	struct nd ask;

	if (load_bytes(skb, sizeof(*h), &ip, sizeof(ip)) || load_bytes(skb, sizeof(*h) + sizeof(ip), &ask, sizeof(ask)))
		return NEXT;
	if ((ip.version_class_flow & net32(0xf0000000)) != net32(0x60000000) || ip.next != PROTO_ICMP6 ||
	    ip.limit != 255 || net16(ip.len) < sizeof(ask) || net16(ip.len) + sizeof(ip) + sizeof(*h) != skb->len ||
	    ask.type != ND_SOLICITATION || ask.code || is_group(*(__u8 *)&ask.target) || is_group(*(__u8 *)&ip.src) ||
	    unspecified(&ip.src))
		return NEXT;
	p = asked_for(network, &ask.target);
	if (!p)
		return NEXT;
	reply.ip.version_class_flow = net32(0x60000000);
	reply.ip.len = net16(sizeof(reply.a));
	reply.ip.next = PROTO_ICMP6;
	reply.ip.limit = 255;
	reply.ip.src = ask.target;
	reply.ip.dst = ip.src;
	reply.a.nd.type = ND_ADVERTISEMENT;
	reply.a.nd.flags = ND_SOLICITED_OVERRIDE;
	reply.a.nd.target = ask.target;
	reply.a.link.type = ND_TARGET_LINK;
	reply.a.link.units = 1;
	reply.a.link.mac = p->via;
	reply.a.nd.check = nd_check(&reply.ip, &reply.a);
	if (skb->len != sizeof(*h) + sizeof(reply) && change_tail(skb, sizeof(*h) + sizeof(reply), 0))
		return NEXT;
	if (store_bytes(skb, sizeof(*h), &reply, sizeof(reply), BPF_F_RECOMPUTE_CSUM))
		return DROP;
	return back(skb, h, p);
}

// destination reads the address that a frame of IP is for.
INLINE int destination(struct __sk_buff *skb, const struct ether *h, struct address *dst)
{
	__u32 dst4;

	if (h->proto == ETHER6)
		return load_bytes(skb, sizeof(*h) + 24, dst, sizeof(*dst));
	if (h->proto != ETHER4 || load_bytes(skb, sizeof(*h) + 16, &dst4, sizeof(dst4)))
		return -1;
	map4(dst, dst4);
	return 0;
}

// lead has what is for an address of a block go to its node, whatever MAC address the sender knows from before: the
// device would send it to every node.
INLINE int lead(struct __sk_buff *skb, __u64 network, struct ether *h)
{
	struct address dst;
	struct peer *p;

	if (*(__u8 *)h & 1 || destination(skb, h, &dst))
		return NEXT;
	p = asked_for(network, &dst);
	if (!p || same_mac(&h->dst, &p->via))
		return NEXT;
	h->dst = p->via;
	return store_bytes(skb, 0, h, sizeof(*h), 0) ? DROP : NEXT;
}

PROGRAM int vethloom_resolve(struct __sk_buff *skb)
{
	__u32 index = skb->ifindex;
	struct link *at = map_lookup(&links, &index);
	int verdict = NEXT;
	struct ether h;

	if (!at || skb->vlan_present || load_bytes(skb, 0, &h, sizeof(h)))
		return NEXT;
	if (h.proto == ETHER_ARP)
		return answer_arp(skb, at->network, &h);
	if (h.proto == ETHER6)
		verdict = answer_nd(skb, at->network, &h);
	return verdict == NEXT ? lead(skb, at->network, &h) : verdict;
}

// is_here reports whether an address is one of this node's: an endpoint's, or its own, as the gateway's is. Nobody
// elsewhere has anything to tell of it.
INLINE int is_here(__u64 network, const struct address *a)
{
	struct peer *p;

	if (endpoint_at(network, a))
		return 1;
	p = peer_of(network, a);
	return p && same_address(&p->node, &p->self);
}

// tells_arp reports whether an ARP message has a MAC address for an address of this node, or for one that is another
// node's by block, and not that node's. That one is what "resolve" has answered. The kernel takes messages of either
// kind of hardware that Ethernet is (ARPHRD_IEEE802), so the kind is not looked at.
INLINE int tells_arp(struct __sk_buff *skb, __u64 network)
{
	struct address sender;
	struct peer *p;
	struct arp a;

	if (load_bytes(skb, sizeof(struct ether), &a, sizeof(a)))
		return 0;
	a.hardware = ARP_ETHERNET;
	if (!is_arp(&a))
		return 0;
	map4(&sender, joined(a.spa));
	if (is_here(network, &sender))
		return 1;
	p = block_of(network, &sender);
	return p && !same_mac(&a.sha, &p->via);
}

// How many extension headers a packet may have on its way to what it says: nobody sends as many.
#define EXTENSIONS 6
#define FRAGMENT 44

// extends reports whether a header is an extension of IPv6 that others may follow (RFC 8200 section 4).
INLINE int extends(__u8 header)
{
	return header == 0 || header == 43 || header == FRAGMENT || header == 60;
}

// What a packet of IPv6 says of neighbours.
enum said {
	NOTHING,
	LIE,    // a MAC address for an address of this node, or another for one that is another node's by block; or it may be
	ANSWER, // where an address is that nobody here has
};

// tells_nd tells what a message of neighbour discovery says, wherever in the packet it stands. One that is about an
// address of a block is what "resolve" has answered, or it is a lie. One in fragments is believed by nobody (RFC 6980).
INLINE enum said tells_nd(struct __sk_buff *skb, __u64 network)
{
	__u32 off = sizeof(struct ether) + sizeof(struct ip6);
	struct nd_answer a;
	int fragment = 0;
	struct peer *p;
	struct ip6 ip;
	__u8 next, h[4];

	if (load_bytes(skb, sizeof(struct ether), &ip, sizeof(ip)))
		return NOTHING;
	next = ip.next;
	for (int i = 0; i < EXTENSIONS && extends(next); i++) {
		if (load_bytes(skb, off, h, sizeof(h)))
			return NOTHING;
		if (next == FRAGMENT) {
			if (h[2] || h[3] & 0xf8)
				return NOTHING; // not the first
			fragment = 1;
			off += 8;
		} else {
			off += 8 * (h[1] + 1);
		}
		next = h[0];
	}
	if (extends(next))
		return LIE;
	if (next != PROTO_ICMP6 || load_bytes(skb, off, &a.nd, sizeof(a.nd.type)))
		return NOTHING;
	switch (a.nd.type) {
	case ND_ROUTER_SOLICITATION:
	case ND_SOLICITATION:
		return fragment || is_here(network, &ip.src) || block_of(network, &ip.src) ? LIE : NOTHING;
	case ND_ADVERTISEMENT:
		break;
	default:
		return NOTHING;
	}
	if (fragment)
		return LIE;
	if (load_bytes(skb, off, &a.nd, sizeof(a.nd)))
		return NOTHING;
	if (is_here(network, &a.nd.target))
		return LIE;
	p = block_of(network, &a.nd.target);
	if (!p)
		return ANSWER;
	if (ip.next != PROTO_ICMP6 || net16(ip.len) != sizeof(a) || load_bytes(skb, off, &a, sizeof(a)) ||
	    a.link.type != ND_TARGET_LINK || a.link.units != 1 || !same_mac(&a.link.mac, &p->via))
		return LIE;
	return ANSWER;
}

PROGRAM int vethloom_land(struct __sk_buff *skb)
{
	__u32 index = skb->ifindex;
	struct link *at = map_lookup(&links, &index);
	enum said said = NOTHING;
	struct endpoint *e;
	struct address dst;
	struct ether h;

	if (!at || load_bytes(skb, 0, &h, sizeof(h)))
		return NEXT;
	if (h.proto == ETHER_ARP)
		return tells_arp(skb, at->network) ? DROP : NEXT;
	if (h.proto == ETHER6)
		said = tells_nd(skb, at->network);
	if (said == LIE)
		return DROP;
	if (said == ANSWER || !same_mac(&h.dst, &at->mac)) // the host has asked as well
		return NEXT;
	if (skb->vlan_present)
		return DROP;
	if (destination(skb, &h, &dst))
		return DROP;
	e = endpoint_at(at->network, &dst);
	if (!e)
		return DROP;
	h.dst = e->mac;
	return store_bytes(skb, 0, &h, sizeof(h), 0) ? DROP : NEXT;
}
