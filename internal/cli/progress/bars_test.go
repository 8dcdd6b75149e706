package progress

import (
	"testing"
	"time"

	apiv1 "github.com/vethloom/vethloom/api/v1"
)

// What a line tells at several widths.
func TestLinesOfBars(t *testing.T) {
	began := time.Unix(1000, 0)
	p := &part{id: "0123456789ab"}
	p.update(&apiv1.TransferProgress{Action: "downloading", Current: 6e6, Total: 3e7}, began)
	p.update(&apiv1.TransferProgress{Action: "downloading", Current: 12e6, Total: 3e7}, began.Add(time.Second))
	now := began.Add(2 * time.Second)
	for width, want := range map[int]string{
		80: "0123456789ab downloading [=========>                 ]       12MB/30MB     3MB/s",
		62: "0123456789ab downloading [==>      ]       12MB/30MB     3MB/s",
		60: "0123456789ab downloading       12MB/30MB     3MB/s",
		40: "0123456789ab downloading 12MB/30MB",
	} {
		if got := p.line(width, now); got != want {
			t.Errorf("%d columns:\n%q, want\n%q", width, got, want)
		}
	}
	p.update(&apiv1.TransferProgress{Action: "unpacking", Current: 3e7, Total: 3e7}, now)
	if got, want := p.line(80, now), "0123456789ab unpacking   [===========================]       30MB/30MB "+
		"         "; got != want {
		t.Errorf("got %q", got)
	}
	p.update(&apiv1.TransferProgress{Action: "retrying", Current: 3e7, Total: 3e7, Text: "reset\x1b"}, now)
	if got := p.line(80, now); got != `0123456789ab retrying    reset\x1b` {
		t.Errorf("got %q", got)
	}
	unknown := &part{id: "x", action: "downloading", current: 5e6}
	if got := unknown.line(80, now); got != "x            downloading             5MB          " {
		t.Errorf("got %q", got)
	}
	for _, c := range []struct {
		current, total int64
		want           string
	}{{0, 10, "[        ]"}, {5, 10, "[===>    ]"}, {10, 10, "[========]"},
		{99, 10, "[========]"}, {-1, 10, "[        ]"}} {
		if got := bar(10, c.current, c.total); got != c.want {
			t.Errorf("%d of %d: %q", c.current, c.total, got)
		}
	}
}

// The line of all counts what is done, and what came over the network alone makes its speed.
func TestTheSumOfBars(t *testing.T) {
	began := time.Unix(1000, 0)
	now := began
	b := &bars{now: func() time.Time { return now }, parts: map[string]*part{}}
	b.all.began = began
	if got := b.sumLine(80); got != "asking" {
		t.Errorf("got %q", got)
	}
	add := func(id, action string, current int64) {
		if b.parts[id] == nil {
			b.parts[id] = &part{id: id}
		}
		b.parts[id].update(&apiv1.TransferProgress{Action: action, Current: current, Total: 1e7}, now)
		if finished(action) {
			b.all.done++
		}
	}
	add("a", "exists", 1e7)
	add("b", "downloading", 4e6) // of an earlier pull
	add("c", "waiting", 0)
	now = began.Add(2 * time.Second)
	add("b", "downloading", 8e6)
	for width, want := range map[int]string{
		80: "1 of 3 done  18MB/30MB  2MB/s  6 seconds left",
		40: "1 of 3 done  18MB/30MB  2MB/s",
		24: "1 of 3 done  18MB/30MB",
	} {
		if got := b.sumLine(width); got != want {
			t.Errorf("%d columns: %q, want %q", width, got, want)
		}
	}
	whole := &bars{now: b.now, parts: map[string]*part{}}
	whole.all.update(&apiv1.TransferProgress{Action: "checking", Current: 5e6, Total: 1e7}, began)
	if got := whole.sumLine(80); got != "checking  5MB/10MB" {
		t.Errorf("got %q", got)
	}
}
