package main

import (
	"fmt"
	"strings"
)

// column is one thing that is measured.
type column struct {
	Title string `json:"title"`
	Unit  string `json:"unit"`
	Form  string `json:"-"`              // of a median
	More  bool   `json:"more_is_better"` // or less is
	Bare  bool   `json:"-"`              // no ratio makes sense
}

// The columns by number; TCP and CPU have one for each of [parallel].
const (
	columnTCP     = 0
	columnCPU     = 2
	columnUDP     = 4
	columnLoss    = 5
	columnLatency = 6
)

// matrix compares contenders at several jobs.
type matrix struct {
	Title   string   `json:"title"`
	Full    bool     `json:"full_offloads"`
	Columns []column `json:"columns"`
	Rows    []*row   `json:"rows"`
	Notes   []string `json:"notes,omitempty"`
}

// row is one contender, with a series for each column.
type row struct {
	Name  string    `json:"name"`
	Cells []*series `json:"cells"`
}

func newMatrix(title string, full bool) *matrix {
	t := &matrix{Title: title, Full: full, Columns: make([]column, columnLatency+1)}
	for i, streams := range parallel {
		t.Columns[columnTCP+i] = column{fmt.Sprintf("TCP %d", streams), "Gb/s", "%.2f", true, false}
		t.Columns[columnCPU+i] = column{fmt.Sprintf("CPU %d", streams), "s/GB", "%.2f", false, false}
	}
	t.Columns[columnUDP] = column{"64 B", "kpps", "%.0f", true, false}
	t.Columns[columnLoss] = column{"lost", "%", "%.1f", false, true}
	t.Columns[columnLatency] = column{"p50", "µs", "%.1f", false, false}
	return t
}

func (t *matrix) row(name string) *row {
	r := &row{Name: name}
	for _, c := range t.Columns {
		r.Cells = append(r.Cells, &series{Name: c.Title})
	}
	t.Rows = append(t.Rows, r)
	return r
}

func (t *matrix) find(name string) *row {
	for _, r := range t.Rows {
		if r.Name == name {
			return r
		}
	}
	return nil
}

func (r *row) add(column int, value float64) {
	r.Cells[column].Samples = append(r.Cells[column].Samples, value)
}

// ratio says how ours does beside theirs: 2 is twice as well, whether more is better or less.
func (t *matrix) ratio(column int, ours, theirs *row) float64 {
	a, b := ours.Cells[column].quantile(.5), theirs.Cells[column].quantile(.5)
	if !t.Columns[column].More {
		a, b = b, a
	}
	if b == 0 {
		return 0
	}
	return a / b
}

// best is what a contender reaches when nothing else disturbs it: on a busy machine it says more than the median.
func (t *matrix) best(column int, r *row) float64 {
	if t.Columns[column].More {
		return r.Cells[column].quantile(1)
	}
	return r.Cells[column].quantile(0)
}

// bestRatio is the ratio of the best rounds.
func (t *matrix) bestRatio(column int, ours, theirs *row) float64 {
	a, b := t.best(column, ours), t.best(column, theirs)
	if !t.Columns[column].More {
		a, b = b, a
	}
	if b == 0 {
		return 0
	}
	return a / b
}

func (t *matrix) table(b *strings.Builder) {
	width := 0
	for _, r := range t.Rows {
		width = max(width, len(r.Name))
	}
	for _, e := range t.compared() {
		width = max(width, len(e.Ours)+len(e.Theirs)+len(" : "))
	}
	line := func(name string, cell func(i int) string, end string) {
		fmt.Fprintf(b, "  %-*s", width, name)
		for i := range t.Columns {
			fmt.Fprintf(b, "  %7s", cell(i))
		}
		b.WriteString(strings.TrimRight("  "+end, " ") + "\n")
	}
	fmt.Fprintf(b, "\n%s\n", t.Title)
	line("medians", func(i int) string { return t.Columns[i].Title }, "")
	line("", func(i int) string { return t.Columns[i].Unit }, "")
	for _, r := range t.Rows {
		line(r.Name, func(i int) string { return fmt.Sprintf(t.Columns[i].Form, r.Cells[i].quantile(.5)) }, "")
	}
	b.WriteString("  ratios: above 1 is better for the first\n")
	for _, e := range t.compared() {
		ours, theirs := t.find(e.Ours), t.find(e.Theirs)
		line(e.Ours+" : "+e.Theirs, func(i int) string {
			if t.Columns[i].Bare {
				return "-"
			}
			return fmt.Sprintf("%.2f", t.ratio(i, ours, theirs))
		}, e.verdict(t, ours, theirs))
	}
	for _, n := range t.Notes {
		fmt.Fprintf(b, "  %s\n", n)
	}
}

// matrixNotes explain what the columns of a matrix hold.
const matrixNotes = `
CPU: processor time of iperf3 and the daemons of both hosts for 10⁹ bytes; what the kernel does for a packet is mostly
done, and counted, in the sending process. 64 B: packets with 64 bytes of UDP payload that arrive.
p50: half of a round trip of 64 bytes over TCP.
`
