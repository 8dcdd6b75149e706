package clients

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// scenario is a part of a script: lines that build upon each other.
type scenario struct {
	name  string
	lines []string
}

// script reads a file of scenarios. A line that begins with a tab continues the one before it.
func script(t *testing.T, name string) []scenario {
	t.Helper()
	var all []scenario
	for i, line := range fileLines(t, name) {
		switch title, isTitle := strings.CutPrefix(line, "== "); {
		case isTitle:
			all = append(all, scenario{name: title})
		case len(all) == 0:
			t.Fatalf("%s:%d: a line before the first scenario", name, i+1)
		default:
			s := &all[len(all)-1]
			if more, ok := strings.CutPrefix(line, "\t"); ok && len(s.lines) > 0 {
				s.lines[len(s.lines)-1] += " " + more
			} else {
				s.lines = append(s.lines, line)
			}
		}
	}
	return all
}

// fileLines are the lines of a file that are no comments.
func fileLines(t *testing.T, name string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(strings.Split(string(text), "\n"), func(line string) bool {
		return strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#")
	})
}

// difference is that a line gives something else here, and why.
type difference struct {
	what   string // those of out, err and code that differ, with commas
	reason string
}

// differences reads the table of what differs: below a reason, the lines it is about, each after what differs.
func differences(t *testing.T, name string) map[string]difference {
	t.Helper()
	reason, all := "", map[string]difference{}
	for _, line := range fileLines(t, name) {
		if title, ok := strings.CutPrefix(line, "== "); ok {
			reason = title
			continue
		}
		what, command, _ := strings.Cut(line, " ")
		if _, twice := all[command]; twice || reason == "" || command == "" {
			t.Errorf("%s: %q is there twice, has no reason, or no command", name, line)
		}
		all[command] = difference{what, reason}
	}
	return all
}

// plain takes from what a client printed what is another at each run.
func plain(text string, engine *engine) string {
	text = strings.ReplaceAll(text, engine.dir, "DIR")
	for _, r := range []struct{ what, by string }{
		{`(sha256:)?[0-9a-f]{64}`, "ID"},
		{`\b[0-9a-f]{12}\b`, "ID"},
		{`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?(Z|[+-]\d\d:?\d\d)( [A-Z]+)?)?`, "TIME"},
		{`(Less than a|About a|About an|\d+) (second|minute|hour)s?( ago)?`, "SPAN$3"},
		{`([0-9a-f]{2}:){5}[0-9a-f]{2}`, "MAC"},
		{`\b\d+\.\d+\.\d+\.\d+\b`, "ADDR"},
		{`(fd|fe80)[0-9a-f]*:[0-9a-f:]+`, "ADDR"},
		{`\b[2-5]\d{4}\b`, "PORT"},
		{`\b\d+(\.\d+)?(e[+-]\d+)? ?([kKMG]i?B|B)\b`, "SIZE"},
		{`[ \t]+`, " "},
		{`(?m) +$`, ""},
	} {
		text = regexp.MustCompile(r.what).ReplaceAllString(text, r.by)
	}
	return strings.TrimSpace(text)
}

// compared is what a line gave at both engines.
type compared struct{ scenario, line, what, report string }

// compare runs the scenarios at both engines, at the same time.
func compare(scenarios []scenario, real, ours *engine) []compared {
	results := map[*engine][]result{}
	done := make(chan []result, 1)
	go func() { done <- all(scenarios, ours) }()
	results[real] = all(scenarios, real)
	results[ours] = <-done
	var out []compared
	i := 0
	for _, s := range scenarios {
		for _, line := range s.lines {
			out = append(out, told(s.name, line, results[real][i], results[ours][i], real, ours))
			i++
		}
	}
	return out
}

func all(scenarios []scenario, e *engine) []result {
	var out []result
	for _, s := range scenarios {
		for _, line := range s.lines {
			out = append(out, e.run(line))
		}
		e.sweep()
	}
	return out
}

// told says what of a line's results is not the same.
func told(scenario, line string, r, o result, real, ours *engine) compared {
	c := compared{scenario: scenario, line: line}
	var what []string
	note := func(name, is, was string) {
		if is != was {
			what = append(what, name)
			c.report += fmt.Sprintf("  %s of dockerd:\n\t%s\n  %s here:\n\t%s\n", name,
				strings.ReplaceAll(was, "\n", "\n\t"), name, strings.ReplaceAll(is, "\n", "\n\t"))
		}
	}
	note("out", plain(o.out, ours), plain(r.out, real))
	note("err", plain(o.err, ours), plain(r.err, real))
	note("code", fmt.Sprint(o.code), fmt.Sprint(r.code))
	c.what = strings.Join(what, ",")
	return c
}

// judge fails the test for what differs and is not in the table, and for what is in the table and does not differ.
func judge(t *testing.T, results []compared, table map[string]difference) {
	t.Helper()
	seen := map[string]string{}
	for _, c := range results {
		if c.what != "" {
			seen[c.line] = c.what
		}
		if c.what != table[c.line].what && c.what != "" {
			t.Errorf("%s:\n%s %s\n  and the table says %q\n%s", c.scenario, c.what, c.line, table[c.line].what,
				c.report)
		}
	}
	for line, d := range table {
		if seen[line] == "" { // of lines that are there more than once, one at least
			t.Errorf("the table says %q of a line that does not differ: %s", d.what, line)
		}
		if !slices.ContainsFunc(results, func(c compared) bool { return c.line == line }) {
			t.Errorf("the table has a line that no scenario has: %s", line)
		}
	}
	t.Logf("%d lines, %d of which differ as the table says", len(results), len(table))
}
