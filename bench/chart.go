package main

import (
	"fmt"
	"slices"
	"strings"
)

// chart compares contenders at several jobs. It is printed as Markdown, for docs/performance.md.
type chart struct {
	Title   string   `json:"title"`
	Unit    string   `json:"unit"`
	Form    string   `json:"-"` // of a median
	Columns []string `json:"columns"`
	Rows    []*row   `json:"rows"`
	Notes   []string `json:"notes,omitempty"`
	ours    *row     // that the others are compared with, if any
}

// row adds a contender.
func (c *chart) row(name string, ours bool) {
	r := &row{Name: name}
	for _, title := range c.Columns {
		r.Cells = append(r.Cells, &series{Name: title})
	}
	c.Rows = append(c.Rows, r)
	if ours {
		c.ours = r
	}
}

// ratio is how many times ours a contender's median is; 0 when either has none.
func (c *chart) ratio(column int, r *row) float64 {
	if c.ours == nil || c.ours.Cells[column].quantile(.5) == 0 {
		return 0
	}
	return r.Cells[column].quantile(.5) / c.ours.Cells[column].quantile(.5)
}

// cell is a median with its ratio to ours, or why there is none.
func (c *chart) cell(column int, r *row) string {
	s := r.Cells[column]
	if len(s.Samples) == 0 {
		if s.Why != "" {
			return s.Why
		}
		return "–"
	}
	text := fmt.Sprintf(c.Form, s.quantile(.5))
	if ratio := c.ratio(column, r); ratio > 0 && r != c.ours {
		text += fmt.Sprintf(" (%.2f)", ratio)
	}
	return text
}

// tidy leaves out contenders that have nothing in any column.
func (c *chart) tidy() {
	c.Rows = slices.DeleteFunc(c.Rows, func(r *row) bool {
		return !slices.ContainsFunc(r.Cells, func(s *series) bool { return len(s.Samples) > 0 })
	})
}

func (c *chart) table(b *strings.Builder) {
	fmt.Fprintf(b, "\n| %s, %s | %s |\n|%s\n", c.Title, c.Unit, strings.Join(c.Columns, " | "),
		strings.Repeat("---|", len(c.Columns)+1))
	for _, r := range c.Rows {
		fmt.Fprintf(b, "| %s |", r.Name)
		for i := range c.Columns {
			fmt.Fprintf(b, " %s |", c.cell(i, r))
		}
		b.WriteString("\n")
	}
	if len(c.Notes) > 0 {
		fmt.Fprintf(b, "\n%s\n", strings.Join(c.Notes, "\n"))
	}
}

// expectRatio notes whether a contender takes so many times as long as we do, in those columns that begin with a word.
func (c *chart) expectRatio(r *row, column string, least float64) {
	var all []string
	verdict := "met"
	for i, title := range c.Columns {
		ratio := c.ratio(i, r)
		if !strings.HasPrefix(title, column) || ratio == 0 {
			continue
		}
		all = append(all, fmt.Sprintf("%s %.2f", title, ratio))
		if ratio < least {
			verdict = "missed"
		}
	}
	if len(all) > 0 {
		c.Notes = append(c.Notes, fmt.Sprintf("- %s: at least %.2f times as long as %s expected, %s: %s", r.Name, least,
			c.ours.Name, verdict, strings.Join(all, ", ")))
	}
}

// expectMost notes whether we stay below a figure in all rounds.
func (c *chart) expectMost(most float64) {
	if c.ours == nil {
		return
	}
	worst := 0.0
	for _, s := range c.ours.Cells {
		worst = max(worst, s.quantile(1))
	}
	verdict := "met"
	if worst >= most {
		verdict = "missed"
	}
	c.Notes = append(c.Notes, fmt.Sprintf("- %s: below %.0f %s expected in every round, %s: at most "+c.Form,
		c.ours.Name, most, c.Unit, verdict, worst))
}

// near notes how many times the longer of the floors we take, where there is one.
func (c *chart) near(floors ...string) {
	if c.ours == nil {
		return
	}
	var all []string
	for i, title := range c.Columns {
		longest := 0.0
		for _, r := range c.Rows {
			if slices.Contains(floors, r.Name) {
				longest = max(longest, r.Cells[i].quantile(.5))
			}
		}
		if own := c.ours.Cells[i].quantile(.5); longest > 0 && own > 0 {
			all = append(all, fmt.Sprintf("%s %.2f", title, own/longest))
		}
	}
	if len(all) > 0 {
		c.Notes = append(c.Notes, fmt.Sprintf("- %s takes so many times the longer of the floors: %s", c.ours.Name,
			strings.Join(all, ", ")))
	}
}

// imagesNotes explain the charts of images.
const imagesNotes = `
Medians; in brackets, how many times vethloom's. Daemons: dockerd with its containerd, without the processes that it
starts to unpack. Commands: the largest process of the command line; ctr, skopeo and umoci do the work of a daemon.
"Until all is on the disk" is the same run, with a syncfs after the command: vethloom has done that already.
`
