package build

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/containerd/console"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"

	"github.com/vethloom/vethloom/internal/cli/show"
)

// progress shows what buildkitd is at.
type progress struct {
	statuses chan *client.SolveStatus
	done     chan struct{}
	kept     *bytes.Buffer // what is shown only when the build fails; nil: nothing
	to       io.Writer
}

func (c *Config) progress() (*progress, error) {
	p := &progress{statuses: make(chan *client.SolveStatus), done: make(chan struct{}), to: c.plain()}
	mode := progressui.DisplayMode(c.Progress)
	var to io.Writer = c.Err
	_, err := console.ConsoleFromFile(c.Err)
	switch {
	case c.Quiet:
		p.kept = &bytes.Buffer{}
		to, mode = p.kept, progressui.PlainMode
	case mode == progressui.PlainMode || err != nil && mode == progressui.AutoMode:
		// A terminal of BuildKit's own shows text of steps; this one would take commands from it.
		to, mode = c.plain(), progressui.PlainMode
	}
	display, err := progressui.NewDisplay(to, mode)
	if err != nil {
		return nil, fmt.Errorf("--progress %s: %w", c.Progress, err)
	}
	go func() {
		defer close(p.done)
		// The context of the build ends before the last of what is to be shown. Failures of steps come with the build's
		// own error, and there is nobody to tell that the display cannot be written to.
		_, _ = display.UpdateFrom(context.Background(), p.statuses)
	}()
	return p, nil
}

// end waits until all is shown. The build has closed the channel.
func (p *progress) end(err error) {
	<-p.done
	if err != nil && p.kept != nil {
		_, _ = p.kept.WriteTo(p.to)
	}
}

// plain is standard error, for text of others.
func (c *Config) plain() io.Writer { return plain{c.Err} }

type plain struct{ to io.Writer }

// Write writes text so that a terminal takes no command from it.
func (p plain) Write(b []byte) (int, error) {
	if _, err := io.WriteString(p.to, show.PlainLines(string(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}
