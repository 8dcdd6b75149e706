package progress

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/show"
	"github.com/vethloom/vethloom/internal/cli/view"
)

// The ways to show progress.
const (
	Auto  = "auto"  // bars on a terminal, else lines
	Plain = "plain" // a line for each change
	JSON  = "json"  // an object a line, on standard output
	Quiet = "quiet" // nothing
)

// Modes are those that can be asked for.
var modes = []string{Auto, Plain, JSON}

// CheckMode refuses what is no way to show progress.
func CheckMode(mode string) error {
	if !slices.Contains(modes, mode) && mode != Quiet {
		return fmt.Errorf("--progress %q: use %s", mode, strings.Join(modes, ", "))
	}
	return nil
}

// Display shows reports. It is used by one goroutine.
type Display interface {
	// Add takes a report.
	Add(*apiv1.TransferProgress)
	// Close ends the display: what is written afterwards stands below it, or in its place.
	Close()
}

// Config says where reports are shown.
type Config struct {
	Mode     string
	Terminal bool      // Err is one that moves its cursor
	Err      io.Writer // gets bars and lines
	Out      io.Writer // gets JSON
	Now      func() time.Time
}

// New makes a display. With Mode Auto it has bars on a terminal and lines elsewhere.
func New(c Config) Display {
	switch {
	case c.Mode == Quiet:
		return nothing{}
	case c.Mode == JSON:
		return objects{c.Out}
	case c.Mode == Auto && c.Terminal:
		return newBars(c.Err, c.Now)
	}
	return &lines{w: c.Err, now: c.Now, parts: map[string]*line{}}
}

type nothing struct{}

func (nothing) Add(*apiv1.TransferProgress) {}
func (nothing) Close()                      {}

type objects struct{ w io.Writer }

// object is a report as programs read it.
type object struct {
	Part    string `json:"part,omitempty"`
	Action  string `json:"action"`
	Current int64  `json:"current"`
	Total   int64  `json:"total,omitempty"`
	Text    string `json:"text,omitempty"`
}

func (o objects) Add(p *apiv1.TransferProgress) {
	// Nobody reads what cannot be written: the transfer itself goes on.
	_ = show.JSON(o.w, object{p.GetPart(), p.GetAction(), p.GetCurrent(), p.GetTotal(), p.GetText()})
}

func (objects) Close() {}

// lineEvery is how often a part that does the same for long is told of.
const lineEvery = 10 * time.Second

// lines has a line for each part and change, and one every [lineEvery].
type lines struct {
	w     io.Writer
	now   func() time.Time
	parts map[string]*line
}

type line struct {
	action, text string
	at           time.Time
}

func (l *lines) Add(p *apiv1.TransferProgress) {
	last := l.parts[p.GetPart()]
	same := last != nil && last.action == p.GetAction() && last.text == p.GetText()
	now := l.now()
	if same && now.Sub(last.at) < lineEvery {
		return
	}
	l.parts[p.GetPart()] = &line{p.GetAction(), p.GetText(), now}
	var b strings.Builder
	if p.GetPart() != "" {
		b.WriteString(show.ShortID(p.GetPart()) + ": ")
	}
	b.WriteString(p.GetAction())
	switch {
	case same && p.GetTotal() > 0:
		b.WriteString(" " + view.Size(p.GetCurrent()) + " of " + view.Size(p.GetTotal()))
	case p.GetTotal() > 0 && !finished(p.GetAction()):
		b.WriteString(" " + view.Size(p.GetTotal()))
	}
	if p.GetText() != "" {
		b.WriteString(": " + p.GetText())
	}
	_ = show.Println(l.w, show.Plain(b.String())) // as above
}

func (l *lines) Close() {}

// finished reports whether a part is done with.
func finished(action string) bool {
	return slices.Contains([]string{"pulled", "exists", "mounted", "pushed"}, action)
}
