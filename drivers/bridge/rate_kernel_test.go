package bridge_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/plan"
)

// pace sends so many bytes from one box to another's address, and returns how many arrived in a second.
func (w *world) pace(from, to, addr string, size int64) float64 {
	w.tb.Helper()
	var l net.Listener
	if err := w.env.Do(w.path(to), func() (err error) { l, err = net.Listen("tcp", addr); return err }); err != nil {
		w.tb.Fatal(err)
	}
	defer l.Close()
	var c net.Conn
	err := w.env.Do(w.path(from), func() (err error) {
		c, err = net.DialTimeout("tcp", addr, await.Patience)
		return err
	})
	if err != nil {
		w.tb.Fatal(err)
	}
	defer c.Close()
	in, err := l.Accept()
	if err != nil {
		w.tb.Fatal(err)
	}
	defer in.Close()
	sent := make(chan error, 1)
	start := time.Now()
	go func() {
		_, err := io.CopyN(c, zeros{}, size)
		sent <- err
	}()
	if err := in.SetReadDeadline(time.Now().Add(await.Patience)); err != nil {
		w.tb.Fatal(err)
	}
	if n, err := io.CopyN(io.Discard, in, size); err != nil {
		w.tb.Fatalf("%d of %d bytes arrived: %v", n, size, err)
	}
	took := time.Since(start)
	if err := <-sent; err != nil {
		w.tb.Fatal(err)
	}
	return float64(size) / took.Seconds()
}

// zeros are without an end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// A limited container gets and sends no more than its rates, by the one as by the other and in both families, and its
// neighbours, which are not limited, many times that.
func TestRates(t *testing.T) {
	w := newWorld(t, true)
	w.network("front", nil)
	const in, out = 80_000_000, 40_000_000 // bits a second
	limited := cnm.Endpoint{NetNS: "slow", LinkOptions: cnm.LinkOptions{RateIn: in, RateOut: out}}
	w.add(plan.State{Namespaces: []plan.Namespace{{Name: "slow"}}})
	w.add(w.endpoint("front", 2, limited))
	w.box("fast", "front", 3)
	w.box("other", "front", 4)
	w.converge()
	held := func(what string, got, rate, free float64) {
		t.Helper()
		t.Logf("%s: %.1f of %.1f MB/s; without a limit %.1f MB/s", what, got/1e6, rate/8e6, free/1e6)
		if got > 1.2*rate/8 {
			t.Errorf("%s: %.1f MB/s, the limit is %.1f", what, got/1e6, rate/8e6)
		}
		if free < 3*got {
			t.Errorf("%s: without a limit it is only %.1f MB/s, with it %.1f", what, free/1e6, got/1e6)
		}
	}
	for _, a := range []struct{ slow, fast string }{{"10.1.0.2:7000", "10.1.0.3:7000"},
		{"[fd01::2]:7000", "[fd01::3]:7000"}} {
		free := w.pace("other", "fast", a.fast, 64<<20)
		held("in", w.pace("fast", "slow", a.slow, 8<<20), in, free)
		held("out", w.pace("slow", "fast", a.fast, 4<<20), out, free)
	}
	// Someone takes the limits away: they are found missing and are back.
	w.env.Sh("tc qdisc del dev vle-00000001 root; tc filter del dev vle-00000001 ingress; ip link del vli-00000001")
	w.converge()
	free := w.pace("other", "fast", "10.1.0.3:7000", 64<<20)
	held("repaired", w.pace("slow", "fast", "10.1.0.3:7000", 4<<20), out, free)
	// Without rates there is nothing of them.
	limited.LinkOptions = cnm.LinkOptions{}
	w.boxes = 0
	w.want = without(w.want).Merge(w.endpoint("front", 2, limited))
	w.converge()
	if got := w.env.Sh("ip link show type ifb; tc qdisc show | grep tbf || true"); got != "" {
		t.Errorf("left: %s", got)
	}
	free = w.pace("slow", "fast", "10.1.0.3:7000", 64<<20)
	if free < out/8*3 {
		t.Errorf("without a limit: %.1f MB/s", free/1e6)
	}
}

// without is the state without queues and the links for them.
func without(s plan.State) plan.State {
	s.Shapers, s.Redirects = nil, nil
	var links []plan.Link
	for _, l := range s.Links {
		if l.Kind != plan.IFB {
			links = append(links, l)
		}
	}
	s.Links = links
	return s
}
