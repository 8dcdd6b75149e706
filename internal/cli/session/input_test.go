package session

import (
	"bytes"
	"testing"

	"github.com/vethloom/vethloom/api/stdio"
)

// What did not reach the process is sent again, in pieces, with the end of input; what cannot be is an error.
func TestInputIsSentAgain(t *testing.T) {
	var i input
	if again, err := i.after(0); err != nil || len(again) != 0 || i.any() {
		t.Errorf("nothing was sent: %v, %v", again, err)
	}
	all := bytes.Repeat([]byte("0123456789abcdef"), 10<<10) // 160 KiB
	i.add(outgoing{stdin: all[:50000]}, true)
	i.add(outgoing{stdin: all[50000:]}, true)
	i.add(outgoing{eof: true}, true)
	again, err := i.after(1000)
	if err != nil || !i.any() || len(again) < 2 || !again[len(again)-1].eof {
		t.Fatalf("%d messages, %v", len(again), err)
	}
	var got []byte
	for _, m := range again {
		if len(m.stdin) > stdio.MaxPiece {
			t.Errorf("a message of %d bytes", len(m.stdin))
		}
		got = append(got, m.stdin...)
	}
	if !bytes.Equal(got, all[1000:]) {
		t.Errorf("%d bytes are sent again, or others", len(got))
	}
	i.add(outgoing{stdin: make([]byte, 3*onTheWay)}, true)
	if _, err := i.after(1000); err == nil {
		t.Error("bytes are sent again that are not there")
	}
}
