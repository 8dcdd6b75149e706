package dns

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestEachIsReadAtItsOwnPace(t *testing.T) {
	p, now := newPace(), time.Unix(1000, 0)
	a, b := addr("10.7.0.2"), addr("10.7.0.3")
	read := func(from netip.Addr, n int) (read int) {
		for range n {
			if p.take(from, now) {
				read++
			}
		}
		return read
	}
	if got := read(a, 2*paceBurst); got != paceBurst {
		t.Errorf("%d are read at once", got)
	}
	if got := read(b, 10); got != 10 {
		t.Errorf("%d of another are read", got)
	}
	now = now.Add(time.Second / 4)
	if got := read(a, paceBurst); got != paceRate/4 {
		t.Errorf("%d are read in a quarter of a second", got)
	}
	for i := range 3 * paceMost {
		p.take(netip.AddrFrom4([4]byte{10, 8, byte(i >> 8), byte(i)}), now)
	}
	if len(p.by) > paceMost {
		t.Errorf("%d are kept in mind", len(p.by))
	}
}

// What one asks at a gateway without end is thrown away, and another one is answered; in its sandbox one asks as it
// likes.
func TestAFloodAtAGateway(t *testing.T) {
	f := newFabric(t)
	for at, want := range map[string]bool{f.gate: false, f.box: true} {
		c, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)}}).Dial("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		answered := func(id int, wait time.Duration) bool {
			q := new(dns.Msg).SetQuestion("app.", dns.TypeA)
			q.Id = uint16(id)
			b, err := q.Pack()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write(b); err != nil {
				t.Fatal(err)
			}
			if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
				t.Fatal(err)
			}
			_, err = c.Read(make([]byte, 512))
			return err == nil
		}
		wait, all := 5*time.Second, true
		if !want {
			wait = 200 * time.Millisecond
		}
		for i := range 10 * paceBurst {
			if all = all && answered(i, wait); !all {
				break
			}
		}
		if all != want {
			t.Errorf("at %s everything is answered: %v", at, all)
		}
		if got := fmt.Sprint(answer(f.ask(at, "app", dns.TypeA))); got != "10.7.0.6 10.7.0.7" {
			t.Errorf("another one has %s", got)
		}
	}
}
