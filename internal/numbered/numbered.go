// Package numbered sends numbered datagrams in tests, and counts which arrive.
package numbered

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/vethloom/vethloom/internal/await"
)

// Window is how many packets may be under way: fewer than fit any queue.
const Window = 200

// Stream is numbered packets from one place to another.
type Stream struct {
	tb   testing.TB
	from net.Conn
	to   net.Conn
	stop chan struct{}
	once sync.Once
	done sync.WaitGroup

	gate   sync.Mutex // held while one is sent
	paused bool       // none is sent

	mu   sync.Mutex
	sent uint32
	got  map[uint32]int
}

// New starts a stream of packets that are written to one connection, and read from another one. It closes both.
func New(tb testing.TB, from, to net.Conn) *Stream {
	tb.Helper()
	s := &Stream{tb: tb, from: from, to: to, stop: make(chan struct{}), got: map[uint32]int{}}
	s.done.Go(s.send)
	s.done.Go(s.receive)
	tb.Cleanup(s.close)
	return s
}

func (s *Stream) send() {
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-pace.C:
		}
		s.gate.Lock()
		if s.underWay() < Window && !s.paused {
			if _, err := s.from.Write(binary.BigEndian.AppendUint32(nil, s.sent)); err != nil {
				s.tb.Errorf("send packet %d: %v", s.sent, err)
			}
			s.mu.Lock()
			s.sent++
			s.mu.Unlock()
		}
		s.gate.Unlock()
	}
}

func (s *Stream) receive() {
	var b [64]byte
	for {
		n, err := s.to.Read(b[:])
		if err != nil {
			return
		}
		s.mu.Lock()
		s.got[binary.BigEndian.Uint32(b[:n])]++
		s.mu.Unlock()
	}
}

// underWay is how many packets have not arrived yet.
func (s *Stream) underWay() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.sent) - len(s.got)
}

func (s *Stream) arrived() {
	s.tb.Helper()
	await.True(s.tb, "all arrives", func() bool { return s.underWay() == 0 })
}

// Pause stops sending, until Go, and waits until nothing is under way.
func (s *Stream) Pause() {
	s.tb.Helper()
	s.pause(true)
	s.arrived()
}

// Go sends on.
func (s *Stream) Go() { s.pause(false) }

func (s *Stream) pause(is bool) {
	s.gate.Lock()
	defer s.gate.Unlock()
	s.paused = is
}

// More waits until so many more have been sent, or as many are under way as may be.
func (s *Stream) More(n uint32) {
	s.tb.Helper()
	count := func() uint32 { s.mu.Lock(); defer s.mu.Unlock(); return s.sent }
	want := count() + n
	await.True(s.tb, fmt.Sprintf("%d more packets are sent", n), func() bool {
		return count() >= want || s.underWay() >= Window
	})
}

func (s *Stream) close() {
	s.once.Do(func() { close(s.stop) })
	s.from.Close()
	s.to.Close()
	s.done.Wait()
}

// End stops sending, and wants each packet to arrive once.
func (s *Stream) End() {
	s.tb.Helper()
	s.Pause()
	s.close()
	for number, times := range s.got {
		if times != 1 || number >= s.sent {
			s.tb.Errorf("packet %d of %d arrived %d times", number, s.sent, times)
		}
	}
	s.tb.Logf("%d packets", s.sent)
}
