// What the programs use of the kernel's interface: headers of packets, helpers by their numbers (linux/bpf.h), and how
// maps are described in BTF. Nothing here depends on a kernel's build.
#pragma once

#include <linux/bpf.h>

#define PROGRAM __attribute__((section("tc"), used))
#define MAP __attribute__((section(".maps"), used))
#define INLINE static inline __attribute__((always_inline))

// A number or a type in the description of a map.
#define NUMBER(name, value) int(*name)[value]
#define TYPE(name, type) typeof(type) *name

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define net16(x) __builtin_bswap16(x)
#define net32(x) __builtin_bswap32(x)
#else
#define net16(x) (x)
#define net32(x) (x)
#endif

static void *(*map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*load_bytes)(const void *skb, __u32 off, void *to, __u32 len) = (void *)BPF_FUNC_skb_load_bytes;
static long (*store_bytes)(void *skb, __u32 off, const void *from, __u32 len, __u64 flags) =
	(void *)BPF_FUNC_skb_store_bytes;
static long (*adjust_room)(void *skb, __s32 len, __u32 mode, __u64 flags) = (void *)BPF_FUNC_skb_adjust_room;
static long (*change_tail)(void *skb, __u32 len, __u64 flags) = (void *)BPF_FUNC_skb_change_tail;
static long (*change_type)(void *skb, __u32 type) = (void *)BPF_FUNC_skb_change_type;
static long (*csum_level)(void *skb, __u64 level) = (void *)BPF_FUNC_csum_level;
static __u32 (*hash)(void *skb) = (void *)BPF_FUNC_get_hash_recalc;
static __u32 (*random32)(void) = (void *)BPF_FUNC_get_prandom_u32;
static long (*redirect)(__u32 link, __u64 flags) = (void *)BPF_FUNC_redirect;
static long (*redirect_peer)(__u32 link, __u64 flags) = (void *)BPF_FUNC_redirect_peer;
static long (*redirect_neigh)(__u32 link, struct bpf_redir_neigh *to, int len, __u64 flags) =
	(void *)BPF_FUNC_redirect_neigh;

// The verdicts of a program at tc or tcx: what is before or behind us goes on, or the packet ends here.
#define NEXT (-1)
#define DROP 2

// Flags of adjust_room that headers of before Linux 6.3 have not: the family of what is inside, if it is another one.
#define DECAP_TO_4 (1ULL << 7)
#define DECAP_TO_6 (1ULL << 8)

#define FAMILY4 2 // AF_INET
#define FAMILY6 10 // AF_INET6
#define FOR_HOST 0 // PACKET_HOST

#define ETHER4 net16(0x0800)
#define ETHER6 net16(0x86dd)
#define ETHER_ARP net16(0x0806)

#define PROTO_ICMP 1
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_ICMP6 58

struct mac {
	__u16 w[3];
};

struct address { // IPv6, or IPv4 mapped into it (RFC 4291 section 2.5.5.2)
	__u32 w[4];
};

struct ether {
	struct mac dst, src;
	__u16 proto;
};

struct ip4 { // RFC 791
	__u8 version_ihl, tos;
	__u16 len, id, frag;
	__u8 ttl, proto;
	__u16 check;
	__u32 src, dst;
};

struct ip6 { // RFC 8200
	__u32 version_class_flow;
	__u16 len;
	__u8 next, limit;
	struct address src, dst;
};

struct udp {
	__u16 src, dst, len, check;
};

struct vxlan { // RFC 7348 section 5
	__u32 flags, vni; // vni in the upper 24 bits
};

#define VXLAN_HAS_VNI net32(0x08000000)
