package progress

import (
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/mattn/go-runewidth"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/show"
	"github.com/vethloom/vethloom/internal/cli/view"
)

// bars has a line for each part that is on its way, and one for all of them. Parts that wait or are done have none:
// an image of 127 layers fits a small terminal.
type bars struct {
	now      func() time.Time
	progress *mpb.Progress
	sum      *mpb.Bar
	shown    map[string]*mpb.Bar

	mu    sync.Mutex // guards what follows, which the library's goroutines read; never held when it is called
	parts map[string]*part
	all   whole
}

// part is what is known of a part of a transfer.
type part struct {
	id, action, text string
	current, total   int64
	from             int64     // bytes that were there when it began
	began            time.Time // when bytes began to come
}

// whole is what is known of all of it.
type whole struct {
	part  // what was reported of the whole
	done  int
	began time.Time
}

func newBars(w io.Writer, now func() time.Time) *bars {
	b := &bars{now: now, shown: map[string]*mpb.Bar{}, parts: map[string]*part{},
		progress: mpb.New(mpb.WithOutput(w), mpb.WithAutoRefresh())}
	b.all.began = now()
	b.sum = b.add(math.MaxInt32, b.sumLine)
	return b
}

// add has a line drawn, again and again. Lines of lower priority are above others.
func (b *bars) add(priority int, draw func(width int) string) *mpb.Bar {
	return b.progress.New(0, mpb.NopStyle(), mpb.BarPriority(priority),
		mpb.PrependDecorators(decor.Any(func(s decor.Statistics) string {
			return runewidth.Truncate(draw(s.AvailableWidth), s.AvailableWidth, "…")
		})))
}

func (b *bars) Add(p *apiv1.TransferProgress) {
	id := p.GetPart()
	if id == "" {
		b.mu.Lock()
		b.all.update(p, b.now())
		b.mu.Unlock()
		return
	}
	b.mu.Lock()
	one := b.parts[id]
	if one == nil {
		one = &part{id: show.ShortID(id)}
		b.parts[id] = one
	}
	was := finished(one.action)
	one.update(p, b.now())
	over := finished(one.action)
	if over && !was {
		b.all.done++
	}
	number := len(b.parts)
	b.mu.Unlock()
	switch bar := b.shown[id]; {
	case over && bar != nil:
		bar.Abort(true)
		delete(b.shown, id)
	case bar == nil && !over && p.GetAction() != "waiting":
		b.shown[id] = b.add(number, func(width int) string {
			b.mu.Lock()
			defer b.mu.Unlock()
			return one.line(width, b.now())
		})
	}
}

// Close takes the bars away.
func (b *bars) Close() {
	for _, bar := range b.shown {
		bar.Abort(true)
	}
	b.sum.Abort(true)
	b.progress.Wait()
}

func (p *part) update(r *apiv1.TransferProgress, now time.Time) {
	p.action, p.text = show.Plain(r.GetAction()), show.Plain(r.GetText())
	p.current, p.total = r.GetCurrent(), r.GetTotal()
	if p.began.IsZero() && p.action != "waiting" {
		p.began, p.from = now, p.current
	}
}

// speed is in bytes a second since bytes began to come; 0 where that is not known.
func speed(bytes int64, since, now time.Time) int64 {
	took := now.Sub(since)
	if since.IsZero() || took < 500*time.Millisecond || bytes <= 0 {
		return 0
	}
	return int64(float64(bytes) / took.Seconds())
}

// How wide the columns of a part's line are. Without room for leastBar, there is no bar.
const (
	idColumns     = 12
	actionColumns = 11
	leastBar      = 10
	mostBar       = 40
)

// line is what is told of a part: ID, action, a bar, bytes, speed; or why it is tried again.
func (p *part) line(width int, now time.Time) string {
	left := fmt.Sprintf("%-*s %-*s ", idColumns, p.id, actionColumns, p.action)
	if p.text != "" {
		return left + p.text
	}
	right := amount(p.current, p.total)
	if width < 60 {
		return left + right
	}
	right = fmt.Sprintf("%15s", right)
	rate := ""
	if s := speed(p.current-p.from, p.began, now); s > 0 && p.action != "unpacking" {
		rate = view.Size(s) + "/s"
	}
	right += fmt.Sprintf(" %9s", rate)
	room := min(width-len(left)-len(right)-1, mostBar)
	if room < leastBar || p.total <= 0 {
		return left + right
	}
	return left + bar(room, p.current, p.total) + " " + right
}

func amount(current, total int64) string {
	if total <= 0 {
		return view.Size(current)
	}
	return view.Size(current) + "/" + view.Size(total)
}

// bar is of a width, in characters.
func bar(width int, current, total int64) string {
	inner := width - 2
	full := int(float64(inner) * float64(min(max(current, 0), total)) / float64(total))
	body := strings.Repeat("=", full)
	if full > 0 && full < inner {
		body = body[1:] + ">"
	}
	return "[" + body + strings.Repeat(" ", inner-full) + "]"
}

// bytes are those of all parts: what is there, what there will be, what has come over the network. With the lock held.
func (b *bars) bytes() (current, total, came int64) {
	for _, p := range b.parts {
		total += max(p.total, p.current)
		if finished(p.action) {
			current += max(p.total, p.current)
		} else {
			current += p.current
		}
		if !p.began.IsZero() && p.action != "exists" && p.action != "mounted" {
			came += p.current - p.from
		}
	}
	return current, total, came
}

// sumLine tells of all parts: how many are done, their bytes and speed.
func (b *bars) sumLine(width int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	current, total, came := b.bytes()
	left := ""
	switch {
	case len(b.parts) > 0:
		left = fmt.Sprintf("%d of %d done", b.all.done, len(b.parts))
	case b.all.total > 0 || b.all.current > 0:
		current, total, came = b.all.current, b.all.total, b.all.current-b.all.from
	case b.all.text == "" && b.all.action == "":
		return "asking"
	}
	if left == "" {
		left = b.all.action
	}
	if b.all.text != "" {
		left += " " + b.all.text
	}
	if total == 0 {
		return left
	}
	text := left + "  " + amount(current, total)
	more := []string{}
	if s := speed(came, b.all.began, b.now()); s > 0 {
		more = append(more, view.Size(s)+"/s")
		if rest := time.Duration(float64(total-current) / float64(s) * float64(time.Second)); rest > time.Second {
			more = append(more, view.LowerFirst(view.Duration(rest))+" left")
		}
	}
	for _, m := range more {
		if len(text)+2+len(m) > width {
			break
		}
		text += "  " + m
	}
	return text
}
