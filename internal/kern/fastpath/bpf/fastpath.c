// The programs of the fast path: "leave", where a packet comes out of a container, and "enter", where one comes in from
// the underlay; and those of byaddress.h. Each forwards what it has proven, and passes on everything else as it was: see
// docs/design/fastpath.md, which has every check with its reason.

#include "kernel.h"

// Reasons for the slow path, and the place in [counts] of what took the fast one.
enum reason {
	FAST,
	OTHER,     // not for an endpoint that a fast path leads to
	FORM,      // fragments, options, other protocols, the end of its hops
	SENDER,    // not from the endpoint or node that it says it is from
	VIA,       // addressed on the link to somebody else than whom its destination is behind
	SIZE,      // larger than the path takes
	PUBLISHED, // of a port that connection tracking may have translated
	REFUSED,   // by the kernel
	REASONS,
};

// Ways to other nodes.
enum way {
	PLAIN = 1, // by a route
	UDP,       // in UDP, as flannel's backend of that name
	VXLAN,
};

// What is known of an endpoint.
#define PUBLISHES 1 // ports, or is reached at them: they are in "ports"
#define SLOW 2 // all of it takes the slow path

// What is known of a way to another node.
#define ROUTED 1 // by routers, which count hops and have Ethernet addresses of their own
#define ASIDE 2 // by another link than the uplink: all of it takes the slow path
#define BLOCK 4 // it is the node's as a whole: who asks for an address of it is told "via"

struct link {
	__u64 network;
	struct mac mac; // of the endpoint; at the VXLAN device of a bridged network, of this node's bridge
	__u8 zero[2];
};

struct place {
	__u64 network; // 0: of all that plain routes lead to
	struct address addr;
};

struct endpoint {
	__u64 network;
	__u32 link; // the host's end of its pair
	__u32 mtu;
	__u32 flags;
	struct mac mac, via; // its own, and that of its network's bridge
};

struct port {
	__u64 network;
	struct address addr;
	__u16 port; // in network byte order
	__u8 proto;
	__u8 zero[5];
};

struct prefix {
	__u32 bits; // of what follows
	__u8 network[8];
	struct address addr;
};

struct peer {
	struct address node, self; // ends of the tunnel, or the node alone
	struct address hop;        // the next one on the link
	__u32 link;
	__u32 mtu; // of packets inside
	__u32 vni;
	__u16 port; // in network byte order
	__u8 way;
	__u8 flags;
	struct mac via;      // whom an endpoint sends to on its link
	struct mac src, dst; // of frames inside the tunnel, when they are routed
	__u8 zero[2];
};

struct end {
	__u32 vni; // NO_VNI: what there is at the port
	__u16 port; // in network byte order
	__u16 family;
};

#define NO_VNI 0xffffffff

struct tunnel {
	__u64 network;
	struct address self;
	struct mac mac; // of the device, when what comes out of it is routed
	__u8 way;
	__u8 flags;
	__u32 link; // of UDP: the device that what is for the slow path comes out of
	__u8 zero[4];
};

struct counts {
	__u64 packets[REASONS], bytes[REASONS];
};

#define TABLE(name, kind, count, key_type, value_type)                                                               \
	struct {                                                                                                     \
		NUMBER(type, kind);                                                                                  \
		NUMBER(max_entries, count);                                                                          \
		NUMBER(map_flags, BPF_F_NO_PREALLOC);                                                                \
		TYPE(key, key_type);                                                                                 \
		TYPE(value, value_type);                                                                             \
	} name MAP

TABLE(links, BPF_MAP_TYPE_HASH, 1 << 14, __u32, struct link);
TABLE(endpoints, BPF_MAP_TYPE_HASH, 1 << 16, struct place, struct endpoint);
TABLE(ports, BPF_MAP_TYPE_HASH, 1 << 16, struct port, __u8);
TABLE(peers, BPF_MAP_TYPE_LPM_TRIE, 1 << 19, struct prefix, struct peer);
TABLE(tunnels, BPF_MAP_TYPE_HASH, 1 << 12, struct end, struct tunnel);
TABLE(traffic, BPF_MAP_TYPE_PERCPU_HASH, 1 << 12, __u64, struct counts);

// What there is to know of a packet.
struct packet {
	struct address src, dst;
	__u16 sport, dport; // in network byte order
	__u16 proto;        // of the Ethernet header
	__u16 header;       // bytes of the IP header
	__u32 len;          // bytes of the IP packet
	__u32 segment;      // bytes of the largest it is sent as
	__u8 l4, hops, ecn;
	__u8 big;    // larger than its header can tell
	__u16 check; // of the IPv4 header
};

INLINE int same_mac(const struct mac *a, const struct mac *b)
{
	return !((a->w[0] ^ b->w[0]) | (a->w[1] ^ b->w[1]) | (a->w[2] ^ b->w[2]));
}

INLINE int same_address(const struct address *a, const struct address *b)
{
	return !((a->w[0] ^ b->w[0]) | (a->w[1] ^ b->w[1]) | (a->w[2] ^ b->w[2]) | (a->w[3] ^ b->w[3]));
}

INLINE void map4(struct address *to, __u32 from)
{
	to->w[0] = to->w[1] = 0;
	to->w[2] = net32(0xffff);
	to->w[3] = from;
}

INLINE int is4(const struct address *a)
{
	return !(a->w[0] | a->w[1]) && a->w[2] == net32(0xffff);
}

// sum is the one's complement sum of an IPv4 header: 0xffff of one whose checksum is right (RFC 1071).
INLINE __u16 sum(const struct ip4 *h)
{
	const __u16 *p = (const void *)h;
	__u32 s = 0;

	for (int i = 0; i < 10; i++)
		s += p[i];
	s = (s & 0xffff) + (s >> 16);
	return (s & 0xffff) + (s >> 16);
}

INLINE int read_ip4(struct __sk_buff *skb, __u32 off, struct packet *p)
{
	struct ip4 h;

	if (load_bytes(skb, off, &h, sizeof(h)))
		return FORM;
	if (h.version_ihl != 0x45 || h.frag & net16(0x3fff) || sum(&h) != 0xffff)
		return FORM;
	map4(&p->src, h.src);
	map4(&p->dst, h.dst);
	p->header = sizeof(h);
	p->len = net16(h.len);
	p->l4 = h.proto;
	p->hops = h.ttl;
	p->ecn = h.tos & 3;
	p->check = h.check;
	return 0;
}

// read_big tells the length of what TCP sends in packets that are larger than an IPv4 header can tell, which tells 0
// then ("BIG TCP"). They stay on this host.
INLINE void read_big(const struct __sk_buff *skb, __u32 off, struct packet *p)
{
	if (p->proto == ETHER4 && !p->len && p->l4 == PROTO_TCP && skb->gso_size && skb->len > off + 0xffff) {
		p->len = skb->len - off;
		p->big = 1;
	}
}

INLINE int read_ip6(struct __sk_buff *skb, __u32 off, struct packet *p)
{
	struct ip6 h;

	if (load_bytes(skb, off, &h, sizeof(h)))
		return FORM;
	if ((h.version_class_flow & net32(0xf0000000)) != net32(0x60000000) || h.len == 0)
		return FORM;
	// Tables know those of IPv4 by these: no packet of IPv6 has one.
	if (is4(&h.src) || is4(&h.dst))
		return FORM;
	p->src = h.src;
	p->dst = h.dst;
	p->header = sizeof(h);
	p->len = sizeof(h) + net16(h.len);
	p->l4 = h.next;
	p->hops = h.limit;
	p->ecn = net32(h.version_class_flow) >> 20 & 3;
	return 0;
}

// read_l4 reads what follows the IP header as far as it is needed: ports, and how large segments are.
INLINE int read_l4(struct __sk_buff *skb, __u32 off, struct packet *p)
{
	__u8 h[14];
	__u32 l4;

	off += p->header;
	p->segment = p->len;
	p->sport = p->dport = 0;
	switch (p->l4) {
	case PROTO_TCP:
		if (p->len < p->header + 20 || load_bytes(skb, off, h, 14))
			return FORM;
		l4 = (h[12] >> 4) * 4;
		break;
	case PROTO_UDP:
		if (p->len < p->header + sizeof(struct udp) || load_bytes(skb, off, h, 8))
			return FORM;
		l4 = sizeof(struct udp);
		break;
	case PROTO_ICMP:
		// Echo and its reply. What tells of an error may be for a connection that is translated.
		if (p->proto != ETHER4 || p->len < p->header + 8 || load_bytes(skb, off, h, 1) || (h[0] & ~8))
			return FORM;
		return skb->gso_size ? FORM : 0;
	case PROTO_ICMP6:
		if (p->proto != ETHER6 || p->len < p->header + 8 || load_bytes(skb, off, h, 1) || (h[0] & ~1) != 128)
			return FORM;
		return skb->gso_size ? FORM : 0;
	default:
		return FORM;
	}
	p->sport = *(__u16 *)h;
	p->dport = *(__u16 *)(h + 2);
	if (skb->gso_size)
		p->segment = p->header + l4 + skb->gso_size;
	return 0;
}

// read reads the packet at off. It returns 0, or why it is not for us.
INLINE int read(struct __sk_buff *skb, __u32 off, struct packet *p)
{
	int r = FORM;

	if (p->proto == ETHER4)
		r = read_ip4(skb, off, p);
	else if (p->proto == ETHER6)
		r = read_ip6(skb, off, p);
	return r;
}

INLINE int slow(struct __sk_buff *skb, __u64 network, enum reason r)
{
	struct counts *c = map_lookup(&traffic, &network);

	if (c && r < REASONS) {
		c->packets[r]++;
		c->bytes[r] += skb->len;
	}
	return NEXT;
}

INLINE void fast(__u64 network, __u32 bytes)
{
	struct counts *c = map_lookup(&traffic, &network);

	if (c) {
		c->packets[FAST]++;
		c->bytes[FAST] += bytes;
	}
}

INLINE struct endpoint *endpoint_at(__u64 network, const struct address *a)
{
	struct place at = {.network = network, .addr = *a};

	return map_lookup(&endpoints, &at);
}

INLINE struct peer *peer_of(__u64 network, const struct address *a)
{
	struct prefix at = {.bits = 8 * (sizeof(at) - sizeof(at.bits)), .addr = *a};

	__builtin_memcpy(at.network, &network, sizeof(network));
	return map_lookup(&peers, &at);
}

// translated reports whether connections of a port may be known by another address than this endpoint's.
INLINE int translated(const struct endpoint *e, const struct address *a, __u8 proto, __u16 number)
{
	struct port at = {.network = e->network, .addr = *a, .port = number, .proto = proto};

	return e->flags & PUBLISHES && map_lookup(&ports, &at);
}

// hop counts one hop of the packet at off.
INLINE int hop(struct __sk_buff *skb, __u32 off, const struct packet *p)
{
	if (p->proto == ETHER6) {
		__u8 limit = p->hops - 1;
		return store_bytes(skb, off + 7, &limit, 1, BPF_F_RECOMPUTE_CSUM);
	}
	// Of 16 bits, hops are the upper eight (RFC 1624).
	__u32 check = net16(p->check) + 0x100;
	struct {
		__u8 ttl, proto;
		__u16 check;
	} h = {p->hops - 1, p->l4, net16((__u16)(check + (check >> 16)))};

	return store_bytes(skb, off + 8, &h, sizeof(h), BPF_F_RECOMPUTE_CSUM);
}

#define TUNNEL_UDP (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L4_UDP)
#define TUNNEL_VXLAN                                                                                                 \
	(TUNNEL_UDP | BPF_F_ADJ_ROOM_ENCAP_L2(sizeof(struct ether)) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH)

struct outer4 {
	struct ip4 ip;
	struct udp udp;
	struct vxlan vxlan;
	struct ether inner;
};

struct outer6 {
	struct ip6 ip;
	struct udp udp;
	struct vxlan vxlan;
	struct ether inner;
};

// Bytes of headers behind the outer IP header.
#define UDP_ROOM sizeof(struct udp)
#define VXLAN_ROOM (UDP_ROOM + sizeof(struct vxlan) + sizeof(struct ether))

// fill writes the headers that both families of the underlay have.
INLINE void fill(struct udp *u, struct vxlan *v, struct ether *inner, const struct peer *to, const struct ether *e,
		 const struct packet *p, __u16 len, __u16 sport)
{
	u->src = sport;
	u->dst = to->port;
	u->len = net16(len);
	v->flags = VXLAN_HAS_VNI;
	v->vni = net32(to->vni << 8);
	inner->src = to->flags & ROUTED ? to->src : e->src;
	inner->dst = to->flags & ROUTED ? to->dst : e->dst;
	inner->proto = p->proto;
}

// ecn is what the outer header says of congestion (RFC 6040 section 4.1): CE inside is not for this path's routers.
INLINE __u8 ecn(const struct packet *p)
{
	return p->ecn == 3 ? 2 : p->ecn;
}

// The first of the ports that a flow's hash chooses one of, and how many there are.
#define FIRST_PORT 32768
#define PORTS_MASK 0x3fff

// encapsulate makes room behind the Ethernet header and writes outer headers there. They are REFUSED as a whole, or
// the packet is lost.
#define encapsulate(skb, o, room, family, proto)                                                                     \
	({                                                                                                           \
		int r = 0;                                                                                           \
		if (adjust_room(skb, room, BPF_ADJ_ROOM_MAC,                                                          \
				family | (room == sizeof((o).ip) + UDP_ROOM ? TUNNEL_UDP : TUNNEL_VXLAN)))            \
			r = REFUSED;                                                                                 \
		else if (store_bytes(skb, sizeof(struct ether), &(o), room, 0) ||                                    \
			 store_bytes(skb, sizeof(struct ether) - sizeof(proto), &proto, sizeof(proto), 0))           \
			r = REASONS;                                                                                 \
		r;                                                                                                   \
	})

INLINE int wrap4(struct __sk_buff *skb, const struct peer *to, const struct ether *e, const struct packet *p,
		 __u16 sport)
{
	__u32 room = sizeof(struct ip4) + (to->way == UDP ? UDP_ROOM : VXLAN_ROOM);
	__u16 proto = ETHER4;
	struct outer4 o = {};

	if (p->len + room > 0xffff)
		return REFUSED;
	o.ip.version_ihl = 0x45;
	o.ip.tos = ecn(p);
	o.ip.len = net16(p->len + room);
	o.ip.id = random32();
	o.ip.ttl = 64;
	o.ip.proto = PROTO_UDP;
	o.ip.src = to->self.w[3];
	o.ip.dst = to->node.w[3];
	o.ip.check = ~sum(&o.ip);
	fill(&o.udp, &o.vxlan, &o.inner, to, e, p, p->len + room - sizeof(o.ip), sport);
	if (to->way == UDP)
		return encapsulate(skb, o, sizeof(o.ip) + UDP_ROOM, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, proto);
	return encapsulate(skb, o, sizeof(o.ip) + VXLAN_ROOM, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, proto);
}

INLINE int wrap6(struct __sk_buff *skb, const struct peer *to, const struct ether *e, const struct packet *p,
		 __u16 sport)
{
	__u32 len = p->len + (to->way == UDP ? UDP_ROOM : VXLAN_ROOM);
	__u16 proto = ETHER6;
	struct outer6 o = {};

	if (len > 0xffff)
		return REFUSED;
	o.ip.version_class_flow = net32(0x60000000 | ecn(p) << 20);
	o.ip.len = net16(len);
	o.ip.next = PROTO_UDP;
	o.ip.limit = 64;
	o.ip.src = to->self;
	o.ip.dst = to->node;
	fill(&o.udp, &o.vxlan, &o.inner, to, e, p, len, sport);
	if (to->way == UDP)
		return encapsulate(skb, o, sizeof(o.ip) + UDP_ROOM, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, proto);
	return encapsulate(skb, o, sizeof(o.ip) + VXLAN_ROOM, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, proto);
}

// onward sends a packet to another node.
INLINE int onward(struct __sk_buff *skb, __u64 network, const struct peer *to, const struct ether *e,
		  const struct packet *p)
{
	struct bpf_redir_neigh next = {};
	__u32 off = sizeof(*e), bytes = skb->len, link = to->link;
	int r = 0;

	if (p->segment > to->mtu || p->big)
		return slow(skb, network, SIZE);
	if (to->flags & ROUTED && p->hops < 2)
		return slow(skb, network, FORM);
	if (to->way != PLAIN) {
		__u16 sport = net16(FIRST_PORT + (hash(skb) & PORTS_MASK));
		if (is4(&to->node)) {
			r = wrap4(skb, to, e, p, sport);
			off += sizeof(struct ip4);
		} else {
			r = wrap6(skb, to, e, p, sport);
			off += sizeof(struct ip6);
		}
		off += to->way == UDP ? UDP_ROOM : VXLAN_ROOM;
	}
	if (r)
		return r == REFUSED ? slow(skb, network, r) : DROP;
	if (to->flags & ROUTED && hop(skb, off, p))
		return DROP;
	fast(network, bytes);
	if (is4(&to->hop)) {
		next.nh_family = FAMILY4;
		next.ipv4_nh = to->hop.w[3];
	} else {
		next.nh_family = FAMILY6;
		__builtin_memcpy(next.ipv6_nh, to->hop.w, sizeof(to->hop));
	}
	return redirect_neigh(link, &next, sizeof(next), 0);
}

PROGRAM int vethloom_leave(struct __sk_buff *skb)
{
	__u32 index = skb->ifindex;
	struct link *from = map_lookup(&links, &index);
	struct packet p = {};
	struct endpoint *e;
	struct peer *to;
	struct ether h;
	__u64 network;
	int r;

	if (!from || load_bytes(skb, 0, &h, sizeof(h)))
		return NEXT;
	network = from->network;
	p.proto = h.proto;
	if (skb->vlan_present || !same_mac(&h.src, &from->mac))
		return slow(skb, network, SENDER);
	r = read(skb, sizeof(h), &p);
	if (!r)
		read_big(skb, sizeof(h), &p);
	if (!r)
		r = read_l4(skb, sizeof(h), &p);
	if (r || p.len + sizeof(h) != skb->len)
		return slow(skb, network, FORM);
	e = endpoint_at(network, &p.src);
	if (!e || e->link != index)
		return slow(skb, network, SENDER);
	if (translated(e, &p.src, p.l4, p.sport))
		return slow(skb, network, PUBLISHED);
	e = endpoint_at(network, &p.dst);
	if (e) {
		if (e->flags & SLOW)
			return slow(skb, network, OTHER);
		if (e->link == index || !same_mac(&h.dst, &e->mac))
			return slow(skb, network, VIA);
		if (translated(e, &p.dst, p.l4, p.dport))
			return slow(skb, network, PUBLISHED);
		if (p.segment > e->mtu)
			return slow(skb, network, SIZE);
		if (skb->pkt_type != FOR_HOST)
			change_type(skb, FOR_HOST);
		fast(network, skb->len);
		return redirect_peer(e->link, 0);
	}
	to = peer_of(network, &p.dst);
	if (!to || to->flags & ASIDE)
		return slow(skb, network, OTHER);
	if (!same_mac(&h.dst, &to->via))
		return slow(skb, network, VIA);
	return onward(skb, network, to, &h, &p);
}

// A packet that came in.
struct arrival {
	struct ether ether; // of the packet, or of the frame that it is in
	struct packet packet;
	__u64 network;
	__u32 room; // bytes of outer headers behind the first Ethernet header; 0: there is no tunnel
	__u32 link; // the device of its tunnel, if what is for the slow path comes out there
	__u8 way;
	__u8 same_family; // inside and outside
};

// decapsulate removes the outer headers but the Ethernet header. It leaves the packet as it is when it fails.
INLINE int decapsulate(struct __sk_buff *skb, const struct arrival *a)
{
	__u64 how = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET;

	if (!a->same_family)
		how |= a->packet.proto == ETHER4 ? DECAP_TO_4 : DECAP_TO_6;
	if (adjust_room(skb, -(__s32)a->room, BPF_ADJ_ROOM_MAC, how))
		return REFUSED;
	// What a network card has verified was the outer checksum, which is none.
	csum_level(skb, BPF_CSUM_LEVEL_DEC);
	return 0;
}

// aside leaves a packet of a proven node to the stack. The device of a tunnel in UDP is a program's: it cannot read
// segments that have no headers yet, so the packet comes out of the device here.
INLINE int aside(struct __sk_buff *skb, struct arrival *a, enum reason r)
{
	int verdict = slow(skb, a->network, r);

	if (!a->link || decapsulate(skb, a))
		return verdict;
	a->ether.proto = a->packet.proto;
	if (store_bytes(skb, 0, &a->ether, sizeof(a->ether), 0))
		return DROP;
	return redirect(a->link, BPF_F_INGRESS);
}

// arrive gives a packet to its endpoint.
INLINE int arrive(struct __sk_buff *skb, const struct endpoint *e, struct arrival *a, int routed)
{
	struct ether *h = &a->ether;
	__u32 link = e->link;

	if (a->room && decapsulate(skb, a))
		return slow(skb, e->network, REFUSED);
	h->dst = e->mac;
	h->proto = a->packet.proto;
	if (routed) {
		h->src = e->via;
		if (hop(skb, sizeof(*h), &a->packet))
			return DROP;
	}
	if (store_bytes(skb, 0, h, sizeof(*h), 0))
		return DROP;
	fast(e->network, skb->len);
	return redirect_peer(link, 0);
}

// receive judges a packet that came from a node, and gives it to its endpoint. Without a tunnel nothing says the node,
// nor the network.
INLINE int receive(struct __sk_buff *skb, struct arrival *a, const struct address *node)
{
	struct packet *p = &a->packet;
	struct endpoint *e = endpoint_at(a->way == PLAIN ? 0 : a->network, &p->dst);
	struct peer *from;

	if (a->way == PLAIN) {
		if (!e)
			return NEXT;
		a->network = e->network;
	}
	from = peer_of(a->network, &p->src);
	if (!from || from->flags & ASIDE || from->way != a->way || from->link != skb->ifindex ||
	    (node && !same_address(&from->node, node)))
		return slow(skb, a->network, SENDER);
	if (e && e->flags & SLOW)
		return slow(skb, a->network, OTHER);
	if (!e) { // of others, this node's own subnets alone may be sent to
		struct peer *to = peer_of(a->network, &p->dst);
		return to && same_address(&to->node, &to->self) ? aside(skb, a, OTHER) : slow(skb, a->network, OTHER);
	}
	if (read_l4(skb, sizeof(a->ether) + a->room, p))
		return aside(skb, a, FORM);
	if (translated(e, &p->dst, p->l4, p->dport))
		return aside(skb, a, PUBLISHED);
	if (p->segment > e->mtu)
		return aside(skb, a, SIZE);
	if (from->flags & ROUTED && p->hops < 2)
		return aside(skb, a, FORM);
	if (!(from->flags & ROUTED) && !same_mac(&a->ether.dst, &e->mac) && !same_mac(&a->ether.dst, &e->via))
		return slow(skb, a->network, VIA);
	return arrive(skb, e, a, from->flags & ROUTED);
}

// unwrap judges the outer headers of a tunnel's packet.
INLINE int unwrap(struct __sk_buff *skb, struct arrival *a, const struct packet *outer)
{
	struct end at = {.vni = NO_VNI, .port = outer->dport, .family = outer->proto == ETHER4 ? 4 : 6};
	struct tunnel *t = map_lookup(&tunnels, &at);
	__u32 off = sizeof(a->ether) + outer->header;
	__u8 first;
	struct udp u;

	if (!t)
		return NEXT;
	if (load_bytes(skb, off, &u, sizeof(u)) || u.check || net16(u.len) != outer->len - outer->header)
		return NEXT;
	off += sizeof(u);
	if (t->way == VXLAN) {
		struct {
			struct vxlan vxlan;
			struct ether ether;
		} __attribute__((packed)) v;
		if (load_bytes(skb, off, &v, sizeof(v)) || v.vxlan.flags != VXLAN_HAS_VNI || v.vxlan.vni & net32(0xff))
			return NEXT;
		at.vni = net32(v.vxlan.vni) >> 8;
		t = map_lookup(&tunnels, &at);
		if (!t)
			return NEXT;
		off += sizeof(v);
		a->ether = v.ether;
		a->packet.proto = v.ether.proto;
		if (t->flags & ROUTED && !same_mac(&a->ether.dst, &t->mac))
			return slow(skb, t->network, VIA);
	} else {
		if (load_bytes(skb, off, &first, 1))
			return NEXT;
		a->packet.proto = first >> 4 == 4 ? ETHER4 : ETHER6;
	}
	// Congestion on the way is for the slow path to tell (RFC 6040 section 4.2).
	if (!same_address(&t->self, &outer->dst) || outer->ecn == 3)
		return slow(skb, t->network, FORM);
	if (read(skb, off, &a->packet) || a->packet.len + off != skb->len)
		return slow(skb, t->network, FORM);
	a->network = t->network;
	a->room = off - sizeof(a->ether);
	a->link = t->link;
	a->way = t->way;
	a->same_family = a->packet.proto == outer->proto;
	return receive(skb, a, &outer->src);
}

PROGRAM int vethloom_enter(struct __sk_buff *skb)
{
	struct arrival a = {.way = PLAIN};
	struct packet p = {};

	if (skb->pkt_type != FOR_HOST || skb->vlan_present || load_bytes(skb, 0, &a.ether, sizeof(a.ether)))
		return NEXT;
	p.proto = a.ether.proto;
	// Short frames have padding behind the packet.
	if (read(skb, sizeof(a.ether), &p) || p.len + sizeof(a.ether) > skb->len)
		return NEXT;
	if (p.l4 == PROTO_UDP && !read_l4(skb, sizeof(a.ether), &p)) {
		struct end at = {.vni = NO_VNI, .port = p.dport, .family = p.proto == ETHER4 ? 4 : 6};
		if (map_lookup(&tunnels, &at))
			return p.len + sizeof(a.ether) == skb->len ? unwrap(skb, &a, &p) : NEXT;
	}
	a.packet = p;
	return receive(skb, &a, 0);
}

#include "byaddress.h"

char licence[] __attribute__((section("license"), used)) = "Apache-2.0";
