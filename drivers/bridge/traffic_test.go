package bridge_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/vethloom/vethloom/internal/await"
)

// serve answers TCP connections and UDP datagrams to a port of a box, both
// families, with "<box> saw <address>", until the test ends.
func (w *world) serve(box string, port int) {
	w.tb.Helper()
	var l net.Listener
	var u net.PacketConn
	err := w.env.Do(w.path(box), func() (err error) {
		if l, err = net.Listen("tcp", fmt.Sprintf("[::]:%d", port)); err != nil {
			return err
		}
		u, err = net.ListenPacket("udp", fmt.Sprintf("[::]:%d", port))
		return err
	})
	if err != nil {
		w.tb.Fatalf("serve port %d in %q: %v", port, box, err)
	}
	if box == "" {
		box = "host"
	}
	var wg sync.WaitGroup
	wg.Go(func() { answerTCP(l, box) })
	wg.Go(func() { answerUDP(u, box) })
	w.tb.Cleanup(func() {
		l.Close()
		u.Close()
		wg.Wait()
	})
}

func answer(box string, from net.Addr) string {
	ap := netip.MustParseAddrPort(from.String())
	return fmt.Sprintf("%s saw %s", box, ap.Addr().Unmap())
}

func answerTCP(l net.Listener, box string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return // closed
		}
		fmt.Fprint(c, answer(box, c.RemoteAddr()))
		c.Close()
	}
}

func answerUDP(u net.PacketConn, box string) {
	buf := make([]byte, 64)
	for {
		_, from, err := u.ReadFrom(buf)
		if err != nil {
			return // closed
		}
		if _, err := u.WriteTo([]byte(answer(box, from)), from); err != nil {
			return
		}
	}
}

// ask sends to an address from a box, and returns what was answered or "".
func (w *world) ask(from, network, to string, source netip.Addr, patience time.Duration) string {
	var got string
	err := w.env.Do(w.path(from), func() error {
		d := net.Dialer{Timeout: patience}
		if source.IsValid() && network == "tcp" {
			d.LocalAddr = &net.TCPAddr{IP: source.AsSlice()}
		}
		if source.IsValid() && network == "udp" {
			d.LocalAddr = &net.UDPAddr{IP: source.AsSlice()}
		}
		c, err := d.Dial(network, to)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if network == "udp" {
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
		}
		buf := make([]byte, 128)
		n, err := c.Read(buf)
		got = string(buf[:n])
		return err
	})
	if err != nil {
		return ""
	}
	return got
}

// reaches checks who answers an address over a network ("tcp" or "udp"): the
// box, or nobody for "". It returns the answer.
func (w *world) reaches(from, network, to, box string) string {
	w.tb.Helper()
	patience := await.Patience
	if box == "" {
		patience = 300 * time.Millisecond // what is dropped stays silent
	}
	got := w.ask(from, network, to, netip.Addr{}, patience)
	switch {
	case box == "" && got != "":
		w.tb.Errorf("%s from %q to %s: answered %q, want silence", network, from, to, got)
	case box != "" && !strings.HasPrefix(got, box+" saw "):
		w.tb.Errorf("%s from %q to %s: got %q, want an answer of %s", network, from, to, got, box)
	}
	return got
}
