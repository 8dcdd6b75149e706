package script

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/pflag"

	"github.com/vethloom/vethloom/internal/lab"
)

// Script is a document, taken apart.
type Script struct {
	Title string
	Flags []string // of netlab up
	Parts []Part
}

// Part is a run of prose, or a block of commands with what must come out.
type Part struct {
	Line     int
	Prose    string
	Commands []Command
	Until    bool // repeat until Expect is met
	Expect   []Expectation
}

// Command is one command on one host.
type Command struct {
	Line int
	Host string
	Mark byte // '$' must succeed, '!' must fail, '&' runs in the background
	Text string
}

// Expectation is a regular expression about the output of a block.
type Expectation struct {
	Line  int
	Never bool
	Text  string
}

var commandLine = regexp.MustCompile(`^([a-z][a-z0-9]*)([$!&]) (.+)$`)

// Parse takes a document apart. Its errors name the line.
func Parse(text string) (Script, error) {
	var s Script
	p := parser{script: &s}
	for i, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		if err := p.line(i+1, line); err != nil {
			return s, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	if p.fence != "" {
		return s, fmt.Errorf("line %d: the block is not closed: end it with ```", p.start)
	}
	p.flush()
	if s.Title == "" {
		return s, fmt.Errorf("line 1: a lab begins with a heading: # TITLE")
	}
	return s, nil
}

// Config is the lab that the document asks for, in the words of netlab up.
func (s Script) Config() (lab.Config, error) {
	var c lab.Config
	f := pflag.NewFlagSet("lab", pflag.ContinueOnError)
	c.Bind(f)
	if err := f.Parse(s.Flags); err != nil {
		return c, fmt.Errorf("block lab: %w", err)
	}
	if f.NArg() > 0 {
		return c, fmt.Errorf("block lab: %q: it holds flags of netlab up only", f.Arg(0))
	}
	return c, nil
}

type parser struct {
	script *Script
	fence  string // kind of the open block
	start  int
	prose  []string
	first  int // line of the first prose
}

func (p *parser) line(n int, line string) error {
	kind, fenced := strings.CutPrefix(line, "```")
	switch {
	case fenced && p.fence == "":
		return p.open(n, strings.TrimSpace(kind))
	case fenced:
		p.fence = ""
		return nil
	case p.fence == "":
		p.text(n, line)
		return nil
	}
	return p.inside(n, line)
}

// text takes a line of prose.
func (p *parser) text(n int, line string) {
	title, heading := strings.CutPrefix(line, "# ")
	if heading && p.script.Title == "" {
		p.script.Title = title
		return
	}
	if len(p.prose) == 0 {
		p.first = n
	}
	p.prose = append(p.prose, line)
}

// flush ends a run of prose.
func (p *parser) flush() {
	text := strings.Trim(strings.Join(p.prose, "\n"), "\n")
	if text != "" {
		p.script.Parts = append(p.script.Parts, Part{Line: p.first, Prose: text})
	}
	p.prose = nil
}

func (p *parser) open(n int, kind string) error {
	p.flush()
	p.fence, p.start = kind, n
	parts := p.script.Parts
	switch kind {
	case "lab":
	case "run", "run until":
		p.script.Parts = append(parts, Part{Line: n, Until: kind != "run"})
	case "expect":
		if len(parts) == 0 || len(parts[len(parts)-1].Commands) == 0 {
			return fmt.Errorf("an expect block follows a run block")
		}
	default:
		return fmt.Errorf("block %q: a lab has blocks lab, run, run until and expect", kind)
	}
	return nil
}

// inside takes a line of the open block.
func (p *parser) inside(n int, line string) error {
	if p.fence == "lab" {
		p.script.Flags = append(p.script.Flags, strings.Fields(line)...)
		return nil
	}
	part := &p.script.Parts[len(p.script.Parts)-1]
	if p.fence == "expect" {
		text, never := strings.CutPrefix(line, "! ")
		if _, err := regexp.Compile("(?m)" + variable.ReplaceAllString(text, "x")); err != nil {
			return err
		}
		part.Expect = append(part.Expect, Expectation{n, never, text})
		return nil
	}
	if more := strings.TrimSpace(line); strings.HasPrefix(line, " ") && len(part.Commands) > 0 {
		part.Commands[len(part.Commands)-1].Text += "\n" + more
		return nil
	}
	m := commandLine.FindStringSubmatch(line)
	if m == nil {
		return fmt.Errorf("%q: want a command such as \"n1$ ip link\"", line)
	}
	part.Commands = append(part.Commands, Command{n, m[1], m[2][0], m[3]})
	return nil
}

var variable = regexp.MustCompile(`\$\{([a-z][a-z0-9_]*)\}`)
