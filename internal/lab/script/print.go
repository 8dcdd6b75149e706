package script

import (
	"fmt"
	"io"
	"regexp"
	"strings"
)

// Printer shows a lab as it runs.
type Printer struct {
	Out    io.Writer
	Colour bool
}

const (
	bold   = "\x1b[1m"
	head   = "\x1b[1;36m"
	dim    = "\x1b[2m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	plain  = "\x1b[0m"
)

func (p Printer) paint(colour, text string) string {
	if !p.Colour || text == "" {
		return text
	}
	return colour + text + plain
}

func (p Printer) raw(text string) { io.WriteString(p.Out, text) }

// Title prints the document's heading.
func (p Printer) Title(title string) {
	p.raw(p.paint(head, title) + "\n" + p.paint(head, strings.Repeat("═", len([]rune(title)))) + "\n")
}

var (
	inlineCode = regexp.MustCompile("`[^`]+`")
	strong     = regexp.MustCompile(`\*\*[^*]+\*\*`)
)

// Prose prints text between commands.
func (p Printer) Prose(text string) {
	p.raw("\n")
	for line := range strings.SplitSeq(text, "\n") {
		if title, ok := strings.CutPrefix(line, "## "); ok {
			p.raw(p.paint(head, title) + "\n")
			continue
		}
		if p.Colour {
			line = strong.ReplaceAllStringFunc(line, func(s string) string { return p.paint(bold, s[2:len(s)-2]) })
			line = inlineCode.ReplaceAllStringFunc(line,
				func(s string) string { return p.paint(yellow, s[1:len(s)-1]) })
		}
		p.raw(line + "\n")
	}
}

// command is the line that a user would type, after the host it is typed on.
func (p Printer) command(c Command) string {
	prompt := "$"
	text := c.Text
	switch {
	case c.Host == "lab":
		text = "netlab fault " + text
	case c.Mark == '&':
		text += " &"
	}
	lines := strings.Split(text, "\n")
	out := "\n  " + p.paint(dim, c.Host+prompt) + " " + p.paint(bold, lines[0]) + "\n"
	for _, line := range lines[1:] {
		out += "  " + strings.Repeat(" ", len(c.Host)+2) + p.paint(bold, line) + "\n"
	}
	return out
}

// output is what a command has printed.
func (p Printer) output(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		fmt.Fprintf(&b, "    %s\n", strings.TrimRight(line, "\r\n"))
	}
	return b.String()
}

// job is what a command in the background has printed.
func (p Printer) job(c Command, text string) string {
	first, _, _ := strings.Cut(c.Text, "\n")
	word, _, _ := strings.Cut(first, " ")
	return "\n  " + p.paint(dim, c.Host+": "+word+" has seen") + "\n" + p.output(text)
}

// Met prints what was expected and has come.
func (p Printer) Met(found []string) {
	for _, f := range found {
		p.raw("  " + p.paint(green, "✓") + " " + p.paint(dim, strings.Join(strings.Fields(f), " ")) + "\n")
	}
}
