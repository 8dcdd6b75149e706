package udp

import (
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"testing"
)

// transfer sends n pseudo-random bytes over TCP and compares digests.
func transfer(t *testing.T, from, to *side, v6 bool, n int64) {
	t.Helper()
	addr := to.inner4
	if v6 {
		addr = to.inner6
	}
	l := to.box.listen(addr)
	type result struct {
		digest [sha256.Size]byte
		err    error
	}
	got := make(chan result, 1)
	go func() {
		var r result
		c, err := l.Accept()
		if err != nil {
			got <- result{err: err}
			return
		}
		defer c.Close()
		h := sha256.New()
		_, r.err = io.Copy(h, c)
		h.Sum(r.digest[:0])
		got <- r
	}()
	c := from.box.dial("tcp", l.Addr().String())
	h := sha256.New()
	if _, err := io.Copy(c, io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), n), h)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	r := <-got
	if r.err != nil {
		t.Fatal(r.err)
	}
	if [sha256.Size]byte(h.Sum(nil)) != r.digest {
		t.Error("what arrived is not what was sent")
	}
}

func TestTunnel(t *testing.T) {
	for name, cfg := range map[string]labConfig{
		"offloads over IPv4":      {},
		"offloads over IPv6":      {outer6: true},
		"plain over IPv4":         {plain: [2]bool{true, true}},
		"plain over IPv6":         {plain: [2]bool{true, true}, outer6: true},
		"plain to offloads":       {plain: [2]bool{true, false}},
		"offloads over jumbo MTU": {mtu: 9000},
	} {
		t.Run(name, func(t *testing.T) {
			lab := newLab(t, cfg)
			a, b := lab[0], lab[1]
			// until two are answered: the queue of the link starts behind us
			a.box.run("ping", "-c", "2", "-i", "0.05", "-w", "20", b.inner4.String())
			b.box.run("ping", "-c", "2", "-i", "0.05", "-w", "20", a.inner6.String())
			a.box.run("ping", "-c", "2", "-i", "0.05", "-W", "2", "-s", "8000", b.inner4.String())
			size := int64(200 << 20)
			if cfg.outer6 || cfg.mtu != 0 || cfg.plain[0] != cfg.plain[1] {
				size = 32 << 20
			}
			transfer(t, a, b, false, size)
			transfer(t, b, a, true, size)
			for i, s := range lab {
				c := s.host.Stats(testLink)
				if c.In.Packets == 0 || c.Out.Packets == 0 || c.In.Bytes < uint64(size) {
					t.Errorf("side %d counted %+v", i, c)
				}
			}
		})
	}
}
