package dns

import (
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/vethloom/vethloom/plan"
)

// endless is a connection that has always another question, and takes every answer.
type endless struct {
	net.Conn
	question []byte
	rest     []byte
	over     *atomic.Bool
	answers  *atomic.Int64
}

func (c *endless) Read(b []byte) (int, error) {
	if c.over.Load() {
		return 0, io.EOF
	}
	if len(c.rest) == 0 {
		c.rest = c.question
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *endless) Write(b []byte) (int, error) {
	c.answers.Add(1)
	return len(b), nil
}

func (c *endless) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4000} }
func (c *endless) SetReadDeadline(time.Time) error  { return nil }
func (c *endless) SetWriteDeadline(time.Time) error { return nil }
func (c *endless) Close() error                     { return nil }

// All connections of one sandbox have questions without end. Others come in between, after one question of each.
func TestConnectionsWithoutEndLeaveTime(t *testing.T) {
	f := newFabric(t)
	v := f.serving(plan.NameServer{NS: "box", Addr: addr("127.0.0.11")})
	b, err := new(dns.Msg).SetQuestion("app.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	b = append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
	var over atomic.Bool
	var answers atomic.Int64
	var tasks sync.WaitGroup
	for range maxConns {
		tasks.Go(func() { v.connection(&endless{question: b, over: &over, answers: &answers}) })
	}
	for answers.Load() < 10*maxConns {
		runtime.Gosched()
	}
	const turns = 100
	before := answers.Load()
	for range turns {
		runtime.Gosched() // as who has read a question of another sandbox, and waits for a processor
	}
	each := (answers.Load() - before) / turns
	over.Store(true)
	tasks.Wait()
	if each > 4*maxConns {
		t.Errorf("%d of them are answered before another one", each)
	}
}
