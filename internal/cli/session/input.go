package session

import (
	"fmt"

	"github.com/vethloom/vethloom/internal/replay"
)

// onTheWay is more input than can be between this process and the container's supervisor, and than is kept here to be
// sent again.
const onTheWay = 4 << 20

// input is what went to a process.
type input struct {
	sent  bool
	ended bool
	kept  replay.Buffer
}

// add takes note of a message; with keep so that it can be sent again.
func (i *input) add(m outgoing, keep bool) {
	i.sent = i.sent || len(m.stdin) > 0
	i.ended = i.ended || m.eof
	if keep {
		i.kept.Size = onTheWay
		i.kept.Add(m.stdin)
	}
}

func (i *input) any() bool { return i.sent }

// after returns the messages that send what comes after the first bytes.
func (i *input) after(received int64) ([]outgoing, error) {
	rest, lost := i.kept.Since(received)
	if lost > 0 {
		return nil, fmt.Errorf("%d bytes of input went with netd and are not here any more", lost)
	}
	var again []outgoing
	for rest := append([]byte(nil), rest...); len(rest) > 0; {
		n := min(len(rest), pieceSize)
		again = append(again, outgoing{stdin: rest[:n]})
		rest = rest[n:]
	}
	if i.ended {
		again = append(again, outgoing{eof: true})
	}
	return again, nil
}
