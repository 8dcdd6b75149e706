package routed_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/vethloom/vethloom/internal/await"
)

// place is where traffic comes from or goes to.
type place struct {
	name string
	path string
}

func (w *world) at(b box) place     { return place{b.String(), b.path()} }
func (w *world) host(id int) place  { return place{fmt.Sprintf("host %d", id), w.hosts[id].path} }
func (w *world) outside() place     { return place{"outside", w.wires.NetNSPath("outside")} }
func on(a netip.Addr, p int) string { return netip.AddrPortFrom(a, uint16(p)).String() }

// serve answers TCP connections to a port, both families, with "<name> saw <address>" and what it
// was sent, until the test ends.
func (w *world) serve(p place, port int) {
	w.tb.Helper()
	var l net.Listener
	err := w.env.Do(p.path, func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf("[::]:%d", port))
		return err
	})
	if err != nil {
		w.tb.Fatalf("serve port %d of %s: %v", port, p.name, err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			n, err := io.Copy(io.Discard, c)
			if err == nil {
				fmt.Fprintf(c, "%s saw %s, %d bytes", p.name,
					netip.MustParseAddrPort(c.RemoteAddr().String()).Addr().Unmap(), n)
			}
			c.Close()
		}
	})
	w.tb.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
}

// patience is how long an answer may take.
const patience = await.Patience

// bulk is what is sent: many full packets.
const bulk = 1 << 20

// ask returns the answer, or why there is none.
func (w *world) ask(from place, to string, patience time.Duration) (string, error) {
	var got []byte
	err := w.env.Do(from.path, func() error {
		c, err := net.DialTimeout("tcp", to, patience)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if _, err := c.Write(make([]byte, bulk)); err != nil {
			return err
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			return err
		}
		got, err = io.ReadAll(c)
		return err
	})
	return string(got), err
}

// reaches checks that an address answers, and that it sees the traffic come from the source.
func (w *world) reaches(from place, to string, who place, source netip.Addr) {
	w.tb.Helper()
	want := fmt.Sprintf("%s saw %s, %d bytes", who.name, source, bulk)
	if got, err := w.ask(from, to, patience); err != nil || got != want {
		w.tb.Errorf("from %s to %s: got %q, want %q (%v)", from.name, to, got, want, err)
	}
}

// silent checks that nobody answers.
func (w *world) silent(from place, to string) {
	w.tb.Helper()
	if got, err := w.ask(from, to, 300*time.Millisecond); err == nil || got != "" {
		w.tb.Errorf("from %s to %s: got %q, want silence", from.name, to, got)
	}
}

// pings sends one packet of the size that must not be fragmented.
func (w *world) pings(from place, to netip.Addr, size int) bool {
	_, err := w.try(from.path, "ping", "-n", "-c1", "-W3", "-Mdo", fmt.Sprintf("-s%d", size), to.String())
	return err == nil
}
