package session

import (
	"fmt"

	"github.com/vethloom/vethloom/api/stdio"
	"github.com/vethloom/vethloom/internal/replay"
)

// onTheWay is how much input is kept here to be sent again. It is more than can be between this process and the
// container's supervisor: gRPC's window of 512 KiB, what netd has taken out of it (8 messages of 64 KiB, and some in
// hand), and what a socket holds.
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
		n := min(len(rest), stdio.MaxPiece)
		again = append(again, outgoing{stdin: rest[:n]})
		rest = rest[n:]
	}
	if i.ended {
		again = append(again, outgoing{eof: true})
	}
	return again, nil
}
