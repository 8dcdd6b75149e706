package nftables

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/plan"
)

// field is how a field is loaded into registers and how its values read.
type field struct {
	size   int                        // bytes
	load   func(reg uint32) expr.Any  // puts the field into reg
	layer3 string                     // ip, ip6 or arp: what the packet must be for the field to mean anything
	layer4 byte                       // the transport protocol likewise; 0: any
	value  func(string) (span, error) // reads a value
	wild   bool                       // "name*" matches by prefix
	typ    plan.DataType              // for anonymous sets, "" when number names the type
	typeID uint32                     // nft's number of the type
	flags  bool                       // values are bits, tested by a mask
}

// fieldOf describes a field.
func fieldOf(f plan.Field) (field, error) {
	switch f {
	case plan.IIfName:
		return ifNameField(expr.MetaKeyIIFNAME), nil
	case plan.OIfName:
		return ifNameField(expr.MetaKeyOIFNAME), nil
	case plan.NFProto:
		return field{size: 1, load: loadMeta(expr.MetaKeyNFPROTO), value: named8(familyNames), typeID: 38}, nil
	case plan.EtherType:
		return field{size: 2, load: loadMeta(expr.MetaKeyPROTOCOL), value: etherTypeValue, typeID: 3}, nil
	case plan.L4Proto:
		return field{size: 1, load: loadMeta(expr.MetaKeyL4PROTO), value: typed(plan.TypeInetProto),
			typ: plan.TypeInetProto}, nil
	case plan.Mark:
		return field{size: 4, load: loadMeta(expr.MetaKeyMARK), value: markValue, typeID: 19}, nil
	case plan.CTState:
		return field{size: 4, load: loadCt(expr.CtKeySTATE), value: named32(ctStates), flags: true}, nil
	case plan.CTStatus:
		return field{size: 4, load: loadCt(expr.CtKeySTATUS), value: named32(ctStatuses), flags: true}, nil
	case plan.CTDirection:
		return field{size: 1, load: loadCt(expr.CtKeyDIRECTION), value: named8(ctDirections), typeID: 27}, nil
	case plan.FIBDaddrType:
		return field{size: 4, load: loadFibType, value: named32(addrTypes), typeID: 39}, nil
	case plan.FIBSaddrOIf:
		return field{size: 4, load: loadFibOIf, value: named32(presence), typeID: 35}, nil
	}
	return payloadField(f)
}

// payloadField describes the fields of the packet itself.
func payloadField(f plan.Field) (field, error) {
	network, transport := expr.PayloadBaseNetworkHeader, expr.PayloadBaseTransportHeader
	switch f {
	case plan.IPSaddr:
		return payload(network, 12, plan.TypeIPv4, "ip"), nil
	case plan.IPDaddr:
		return payload(network, 16, plan.TypeIPv4, "ip"), nil
	case plan.IP6Saddr:
		return payload(network, 8, plan.TypeIPv6, "ip6"), nil
	case plan.IP6Daddr:
		return payload(network, 24, plan.TypeIPv6, "ip6"), nil
	case plan.EtherSaddr:
		return payload(expr.PayloadBaseLLHeader, 6, plan.TypeEther, ""), nil
	case plan.ARPSaddrIP: // RFC 826 with Ethernet and IPv4 addresses
		return payload(network, 14, plan.TypeIPv4, "arp"), nil
	case plan.ARPSaddrEther:
		return payload(network, 8, plan.TypeEther, "arp"), nil
	case plan.SPort:
		return payload(transport, 0, plan.TypePort, ""), nil
	case plan.DPort:
		return payload(transport, 2, plan.TypePort, ""), nil
	case plan.TCPFlags: // RFC 9293 section 3.1
		return field{size: 1, load: loadPayload(transport, 13, 1), layer4: unix.IPPROTO_TCP, value: named8(tcpFlags),
			flags: true}, nil
	case plan.ICMPv6Type:
		return field{
			size: 1, load: loadPayload(transport, 0, 1), layer3: "ip6", layer4: unix.IPPROTO_ICMPV6,
			value: named8(icmpv6Types), typeID: 29,
		}, nil
	case plan.ICMPv6Target: // RFC 4861 sections 4.3 and 4.4
		target := payload(transport, 8, plan.TypeIPv6, "ip6")
		target.layer4 = unix.IPPROTO_ICMPV6
		return target, nil
	}
	return field{}, fmt.Errorf("field %q is unknown", f)
}

func ifNameField(key expr.MetaKey) field {
	return field{size: ifNameSize, load: loadMeta(key), value: typed(plan.TypeIfName), wild: true,
		typ: plan.TypeIfName}
}

func payload(base expr.PayloadBase, offset uint32, t plan.DataType, layer3 string) field {
	nt, _ := typeOf(t)
	return field{
		size: nt.size, load: loadPayload(base, offset, uint32(nt.size)), layer3: layer3, value: typed(t), typ: t,
	}
}

func loadMeta(key expr.MetaKey) func(uint32) expr.Any {
	return func(reg uint32) expr.Any { return &expr.Meta{Key: key, Register: reg} }
}

func loadCt(key expr.CtKey) func(uint32) expr.Any {
	return func(reg uint32) expr.Any { return &expr.Ct{Key: key, Register: reg} }
}

func loadFibType(reg uint32) expr.Any {
	return &expr.Fib{Register: reg, ResultADDRTYPE: true, FlagDADDR: true}
}

func loadFibOIf(reg uint32) expr.Any {
	return &expr.Fib{Register: reg, ResultOIF: true, FlagSADDR: true, FlagIIF: true, FlagPRESENT: true}
}

func loadPayload(base expr.PayloadBase, offset, size uint32) func(uint32) expr.Any {
	return func(reg uint32) expr.Any {
		return &expr.Payload{DestRegister: reg, Base: base, Offset: offset, Len: size}
	}
}

func typed(t plan.DataType) func(string) (span, error) {
	return func(text string) (span, error) { return encodePart(t, text) }
}

// name is a symbolic value.
type name struct {
	text  string
	value uint32
}

// The symbolic values of nft(8) that rules use.
var (
	familyNames = []name{{"ipv4", unix.NFPROTO_IPV4}, {"ipv6", unix.NFPROTO_IPV6}}
	etherTypes  = []name{{"ip", unix.ETH_P_IP}, {"ip6", unix.ETH_P_IPV6}, {"arp", unix.ETH_P_ARP},
		{"vlan", unix.ETH_P_8021Q}}
	ctStates     = []name{{"invalid", 1}, {"established", 2}, {"related", 4}, {"new", 8}, {"untracked", 64}}
	ctStatuses   = []name{{"snat", 16}, {"dnat", 32}, {"confirmed", 8}, {"assured", 4}, {"seen-reply", 2}}
	ctDirections = []name{{"original", 0}, {"reply", 1}}
	tcpFlags     = []name{{"fin", 1}, {"syn", 2}, {"rst", 4}, {"psh", 8}, {"ack", 16}}
	presence     = []name{{"missing", 0}, {"exists", 1}}
	addrTypes    = []name{
		{"unicast", unix.RTN_UNICAST}, {"local", unix.RTN_LOCAL}, {"broadcast", unix.RTN_BROADCAST},
		{"anycast", unix.RTN_ANYCAST},
		{"multicast", unix.RTN_MULTICAST}, {"blackhole", unix.RTN_BLACKHOLE}, {"unreachable", unix.RTN_UNREACHABLE},
		{"prohibit", unix.RTN_PROHIBIT},
	}
	icmpv6Types = []name{ // IANA "ICMPv6 Parameters"
		{"destination-unreachable", 1}, {"packet-too-big", 2}, {"time-exceeded", 3}, {"parameter-problem", 4},
		{"echo-request", 128},
		{"echo-reply", 129}, {"mld-listener-query", 130}, {"mld-listener-report", 131}, {"mld-listener-done", 132},
		{"nd-router-solicit", 133}, {"nd-router-advert", 134}, {"nd-neighbor-solicit", 135},
		{"nd-neighbor-advert", 136},
		{"nd-redirect", 137}, {"mld2-listener-report", 143},
	}
)

func lookupName(names []name, text string, bits int) (uint32, error) {
	for _, n := range names {
		if n.text == text {
			return n.value, nil
		}
	}
	v, err := strconv.ParseUint(text, 0, bits)
	if err != nil {
		known := make([]string, len(names))
		for i, n := range names {
			known[i] = n.text
		}
		return 0, fmt.Errorf("%q is none of %s", text, strings.Join(known, ", "))
	}
	return uint32(v), nil
}

func named8(names []name) func(string) (span, error) {
	return func(text string) (span, error) {
		v, err := lookupName(names, text, 8)
		return single([]byte{byte(v)}), err
	}
}

// named32 reads values that the kernel keeps in the host's byte order.
func named32(names []name) func(string) (span, error) {
	return func(text string) (span, error) {
		v, err := lookupName(names, text, 32)
		return single(binary.NativeEndian.AppendUint32(nil, v)), err
	}
}

func etherTypeValue(text string) (span, error) {
	v, err := lookupName(etherTypes, text, 16)
	return single(be16(uint16(v))), err
}

func markValue(text string) (span, error) {
	v, err := strconv.ParseUint(text, 0, 32)
	if err != nil {
		return span{}, fmt.Errorf("%q is no mark of 32 bits", text)
	}
	return single(binary.NativeEndian.AppendUint32(nil, uint32(v))), nil
}
