package engine

import (
	"strconv"
	"testing"

	"github.com/vethloom/vethloom/cnm"
)

// One ID of 280 would have digits alone in its short form.
func TestNoIDIsANumber(t *testing.T) {
	var e records
	for range 4000 {
		id, err := e.newID()
		if err != nil {
			t.Fatal(err)
		}
		if n, err := strconv.ParseUint(cnm.Short(id), 10, 64); err == nil {
			t.Fatalf("a container would have the hostname %d", n)
		}
	}
}
