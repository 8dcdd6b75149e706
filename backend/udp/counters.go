package udp

import "sync/atomic"

// Reason is why a packet was dropped.
type Reason string

// The reasons. Where a packet fits several, the first that is checked counts.
const (
	UnknownPeer        Reason = "unknown-peer"        // the datagram is from no remote's address
	ForeignSource      Reason = "foreign-source"      // the inner source is not the sender's to use
	ForeignDestination Reason = "foreign-destination" // the inner destination is not this end's
	NoRoute            Reason = "no-route"            // no remote has the destination
	BadHeader          Reason = "bad-header"          // version, header length, total length or checksum
	TooShort           Reason = "too-short"           // no room for an IP header
	Oversized          Reason = "oversized"           // a datagram that does not fit a buffer
	TooBig             Reason = "too-big"             // larger than the path to the remote carries
	TTLExpired         Reason = "ttl-expired"         // TTL or hop limit used up
	Loop               Reason = "loop"                // this end's own packets coming back
	SendError          Reason = "send-error"          // the socket refused the datagram
	DeviceError        Reason = "device-error"        // the TUN link refused the packet
)

// reasons lists every [Reason], in the order of their checks.
var reasons = [...]Reason{
	UnknownPeer, ForeignSource, ForeignDestination, NoRoute, BadHeader, TooShort,
	Oversized, TooBig, TTLExpired, Loop, SendError, DeviceError,
}

// Traffic counts inner packets and their bytes.
type Traffic struct{ Packets, Bytes uint64 }

// Counters is what a tunnel has done since its link was first opened by this process.
type Counters struct {
	In, Out Traffic           // In came from remotes, Out went to them
	Drops   map[Reason]uint64 // every reason is present
	Errors  uint64            // ICMP errors sent to inner sources
}

// counters is the live form. Both directions have their own cache lines.
type counters struct {
	outPackets, outBytes atomic.Uint64
	errors               atomic.Uint64
	_                    [64]byte
	inPackets, inBytes   atomic.Uint64
	_                    [64]byte
	drops                [len(reasons)]atomic.Uint64
}

func (c *counters) drop(r Reason, n int) {
	for i := range reasons {
		if reasons[i] == r {
			c.drops[i].Add(uint64(n))
			return
		}
	}
}

func (c *counters) snapshot() Counters {
	s := Counters{
		In:     Traffic{c.inPackets.Load(), c.inBytes.Load()},
		Out:    Traffic{c.outPackets.Load(), c.outBytes.Load()},
		Drops:  make(map[Reason]uint64, len(reasons)),
		Errors: c.errors.Load(),
	}
	for i, r := range reasons {
		s.Drops[r] = c.drops[i].Load()
	}
	return s
}
