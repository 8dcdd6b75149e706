package nftables

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/kern/attr"
	"github.com/vethloom/vethloom/plan"
)

// dataType is what nf_tables and nft(8) know about a data type.
type dataType struct {
	name      plan.DataType
	id        uint32 // nft's number of the type, by which it prints values
	size      int    // bytes
	byteOrder uint32 // nft's: 1 host, 2 network; only tells it how to print
}

const (
	hostOrder    = 1
	networkOrder = 2
	typeBits     = 6 // of each part in the number of a concatenated type
	ifNameSize   = unix.IFNAMSIZ
	wordSize     = 4 // nf_tables aligns every part of a concatenation to it
)

// dataTypes are the types of plan; verdicts are apart, they are data only.
var dataTypes = [...]dataType{
	{plan.TypeIfName, 41, ifNameSize, hostOrder},
	{plan.TypeIPv4, 7, 4, networkOrder},
	{plan.TypeIPv6, 8, 16, networkOrder},
	{plan.TypeEther, 9, 6, networkOrder},
	{plan.TypeInetProto, 12, 1, networkOrder},
	{plan.TypePort, 13, 2, networkOrder},
}

// typeVerdict is NFT_DATA_VERDICT, the type of maps to verdicts.
const typeVerdict = 0xffffff00

func typeOf(t plan.DataType) (dataType, error) {
	for _, nt := range dataTypes {
		if nt.name == t {
			return nt, nil
		}
	}
	return dataType{}, fmt.Errorf("data type %q is unknown", t)
}

// words is the room of n bytes in 32-bit registers.
func words(n int) int { return (n + wordSize - 1) / wordSize }

// typeID is the number and the padded length of a concatenation.
func typeID(ts []plan.DataType) (id uint32, size int, err error) {
	for _, t := range ts {
		nt, err := typeOf(t)
		if err != nil {
			return 0, 0, err
		}
		id = id<<typeBits | nt.id
		if len(ts) == 1 {
			return id, nt.size, nil
		}
		size += words(nt.size) * wordSize
	}
	return id, size, nil
}

// typesOf is the inverse of typeID; what is unknown is named by its number, so
// that it differs from everything wanted.
func typesOf(id uint32) []plan.DataType {
	if id == typeVerdict {
		return []plan.DataType{plan.TypeVerdict}
	}
	var out []plan.DataType
	for rest := id; rest != 0; rest >>= typeBits {
		part := rest & (1<<typeBits - 1)
		name := plan.DataType("")
		for _, nt := range dataTypes {
			if nt.id == part {
				name = nt.name
			}
		}
		if name == "" {
			return []plan.DataType{plan.DataType("type-" + strconv.FormatUint(uint64(id), 10))}
		}
		out = append([]plan.DataType{name}, out...)
	}
	return out
}

// span is the bytes of a value, or of the two ends of a range.
type span struct {
	from, to []byte
}

func single(b []byte) span { return span{b, b} }

// encodePart reads the text of one part.
func encodePart(t plan.DataType, text string) (span, error) {
	switch t {
	case plan.TypeIfName:
		return encodeIfName(text)
	case plan.TypeIPv4, plan.TypeIPv6:
		return encodeAddr(t == plan.TypeIPv4, text)
	case plan.TypeEther:
		mac, err := net.ParseMAC(text)
		if err != nil || len(mac) != 6 {
			return span{}, fmt.Errorf("%q is no hardware address such as 02:42:0a:01:00:02", text)
		}
		return single(mac), nil
	case plan.TypeInetProto:
		n, err := protoNumber(text)
		return single([]byte{n}), err
	case plan.TypePort:
		return encodePort(text)
	}
	return span{}, fmt.Errorf("data type %q cannot be encoded", t)
}

func encodeIfName(text string) (span, error) {
	if text == "" || len(text) >= ifNameSize || strings.ContainsAny(text, "/ \x00") {
		return span{}, fmt.Errorf("%q is no link name of 1 to %d bytes", text, ifNameSize-1)
	}
	b := make([]byte, ifNameSize)
	copy(b, text)
	return single(b), nil
}

func encodeAddr(v4 bool, text string) (span, error) {
	from, to, err := parseAddrs(text)
	if err != nil {
		return span{}, err
	}
	if from.Is4() != v4 || to.Is4() != v4 || from.Zone() != "" || to.Less(from) {
		return span{}, fmt.Errorf("%q is no address, prefix or range of the set's family", text)
	}
	return span{from.AsSlice(), to.AsSlice()}, nil
}

func parseAddrs(text string) (from, to netip.Addr, err error) {
	if a, b, ok := strings.Cut(text, "-"); ok {
		if from, err = netip.ParseAddr(a); err == nil {
			to, err = netip.ParseAddr(b)
		}
		return from, to, err
	}
	if strings.Contains(text, "/") {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return from, to, err
		}
		return p.Masked().Addr(), plan.LastAddr(p), nil
	}
	from, err = netip.ParseAddr(text)
	return from, from, err
}

func encodePort(text string) (span, error) {
	a, b, ranged := strings.Cut(text, "-")
	from, err := strconv.ParseUint(a, 10, 16)
	to := from
	if err == nil && ranged {
		to, err = strconv.ParseUint(b, 10, 16)
	}
	if err != nil || to < from {
		return span{}, fmt.Errorf("%q is no port or range of ports", text)
	}
	return span{be16(uint16(from)), be16(uint16(to))}, nil
}

func be16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

// decodePart is the inverse of encodePart. Text that no part has stands for
// bytes that no text yields.
func decodePart(t plan.DataType, s span) string {
	same := bytes.Equal(s.from, s.to)
	switch t {
	case plan.TypeIPv4, plan.TypeIPv6:
		from, ok1 := netip.AddrFromSlice(s.from)
		to, ok2 := netip.AddrFromSlice(s.to)
		if ok1 && ok2 {
			return plan.RangeText(from, to)
		}
	case plan.TypePort:
		if len(s.from) == 2 && len(s.to) == 2 {
			from := strconv.Itoa(int(binary.BigEndian.Uint16(s.from)))
			if same {
				return from
			}
			return from + "-" + strconv.Itoa(int(binary.BigEndian.Uint16(s.to)))
		}
	case plan.TypeIfName:
		if name := attr.Text(s.from); same && cleanName(s.from, name) {
			return name
		}
	case plan.TypeEther:
		if same && len(s.from) == 6 {
			return net.HardwareAddr(s.from).String()
		}
	case plan.TypeInetProto:
		if same && len(s.from) == 1 {
			return protoName(s.from[0])
		}
	}
	if same {
		return fmt.Sprintf("0x%x", s.from)
	}
	return fmt.Sprintf("0x%x-0x%x", s.from, s.to)
}

// cleanName reports whether encoding name gives b again.
func cleanName(b []byte, name string) bool {
	again, err := encodeIfName(name)
	return err == nil && bytes.Equal(again.from, b)
}

// protocol numbers with a name in plan, see IANA "Protocol Numbers".
var protocols = [...]struct {
	name   string
	number byte
}{
	{"tcp", unix.IPPROTO_TCP}, {"udp", unix.IPPROTO_UDP}, {"sctp", unix.IPPROTO_SCTP}, {"icmp", unix.IPPROTO_ICMP},
	{"igmp", unix.IPPROTO_IGMP},
	{"ipv6-icmp", unix.IPPROTO_ICMPV6}, {"dccp", unix.IPPROTO_DCCP}, {"udplite", unix.IPPROTO_UDPLITE},
	{"esp", unix.IPPROTO_ESP},
	{"ah", unix.IPPROTO_AH}, {"gre", unix.IPPROTO_GRE},
}

func protoNumber(text string) (byte, error) {
	for _, p := range protocols {
		if p.name == text {
			return p.number, nil
		}
	}
	n, err := strconv.ParseUint(text, 10, 8)
	if err != nil {
		return 0, fmt.Errorf("%q is no transport protocol", text)
	}
	return byte(n), nil
}

func protoName(n byte) string {
	for _, p := range protocols {
		if p.number == n {
			return p.name
		}
	}
	return strconv.Itoa(int(n))
}
