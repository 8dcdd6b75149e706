package cli

import (
	"fmt"
	"strings"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/show"
	"github.com/vethloom/vethloom/internal/cli/view"
)

type fastPathView struct {
	State  string
	Counts []pathCountView
}

type pathCountView struct {
	Network        string
	Fast           bool
	Reason         string
	Packets, Bytes uint64
}

func viewFastPath(f *apiv1.FastPath) fastPathView {
	v := fastPathView{State: f.GetState(), Counts: []pathCountView{}}
	for _, c := range f.GetCounts() {
		v.Counts = append(v.Counts, pathCountView{c.GetNetwork(), c.GetFast(), c.GetReason(), c.GetPackets(),
			c.GetBytes()})
	}
	return v
}

// showPaths tells how much of each network took which path, a network a line.
func (a nodes) showPaths(f *apiv1.FastPath) {
	counts := f.GetCounts()
	if len(counts) > 0 {
		fmt.Fprintln(a.Out)
	}
	for i := 0; i < len(counts); {
		name := counts[i].GetNetwork()
		var fast, bytes, slow uint64
		var why []string
		for ; i < len(counts) && counts[i].GetNetwork() == name; i++ {
			c := counts[i]
			if c.GetFast() {
				fast, bytes = c.GetPackets(), c.GetBytes()
				continue
			}
			slow += c.GetPackets()
			why = append(why, fmt.Sprintf("%d %s", c.GetPackets(), c.GetReason()))
		}
		show.Printf(a.Out, "%s: %d packets (%s) took the fast path, %d the slow one", name, fast,
			view.Size(int64(bytes)), slow)
		if len(why) > 0 {
			show.Printf(a.Out, " (%s)", strings.Join(why, ", "))
		}
		fmt.Fprintln(a.Out)
	}
}
