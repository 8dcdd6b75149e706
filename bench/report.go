package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// series is what one contender did, one sample a round.
type series struct {
	Name    string    `json:"name"`
	Cold    float64   `json:"cold,omitempty"` // the first time, in a fresh daemon
	Samples []float64 `json:"samples"`        // warm
	Why     string    `json:"why,omitempty"`  // there are none
	Ours    *series   `json:"-"`              // the vethloom series to compare with, if any
}

func (s *series) add(d time.Duration) {
	ms := float64(d.Nanoseconds()) / 1e6
	if s.Cold == 0 {
		s.Cold = ms
		return
	}
	s.Samples = append(s.Samples, ms)
}

// quantile q of the samples, 0 when there is none.
func (s *series) quantile(q float64) float64 {
	if len(s.Samples) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s.Samples))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// group compares contenders at one job.
type group struct {
	Title string `json:"title"`
	Unit  string `json:"unit"` // ms or Gb/s
	// More is better, or less is.
	More bool `json:"more_is_better"`
	// Cost says that the unit is not time.
	Cost   bool      `json:"-"`
	Series []*series `json:"series"`
	Notes  []string  `json:"notes,omitempty"`
}

func (g *group) series(name string) *series {
	s := &series{Name: name}
	g.Series = append(g.Series, s)
	return s
}

type report struct {
	Groups []group   `json:"groups,omitempty"`
	Local  []*matrix `json:"local,omitempty"`
	Across []*matrix `json:"across,omitempty"`
	Images []*chart  `json:"images,omitempty"`
	Absent []string  `json:"absent,omitempty"` // contenders that are not on this machine
}

func (r report) json(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

func (r report) table(w io.Writer) error {
	var b strings.Builder
	for _, g := range r.Groups {
		g.table(&b)
	}
	matrices := slices.Concat(r.Local, r.Across)
	for _, t := range matrices {
		t.table(&b)
	}
	if len(matrices) > 0 {
		b.WriteString(matrixNotes)
	}
	for _, c := range r.Images {
		c.table(&b)
	}
	if len(r.Images) > 0 {
		b.WriteString(imagesNotes)
	}
	for _, a := range r.Absent {
		fmt.Fprintln(&b, "\nabsent:", a)
	}
	b.WriteString("\ncold: the first time after a start. Figures differ from machine to machine; the ratios count.\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func (g group) table(b *strings.Builder) {
	width := 0
	for _, s := range g.Series {
		width = max(width, len(s.Name))
	}
	width = max(width, len(g.Title)+len(g.Unit)+3-2) // the title starts two columns further to the left
	fmt.Fprintf(b, "\n%-*s  %8s  %8s  %8s\n", width+2, fmt.Sprintf("%s (%s)", g.Title, g.Unit), "cold", "median", "p95")
	for _, s := range g.Series {
		cold := "-"
		if s.Cold > 0 {
			cold = fmt.Sprintf("%.2f", s.Cold)
		}
		line := fmt.Sprintf("  %-*s  %8s  %8.2f  %8.2f  %s", width, s.Name, cold, s.quantile(.5), s.quantile(.95),
			g.ratio(s))
		fmt.Fprintln(b, strings.TrimRight(line, " "))
	}
	for _, n := range g.Notes {
		fmt.Fprintf(b, "  %s\n", n)
	}
}

// ratio says how vethloom does beside s: 2 × is twice as fast.
func (g group) ratio(s *series) string {
	if s.Ours == nil {
		return ""
	}
	ratio := s.quantile(.5) / s.Ours.quantile(.5)
	if g.More {
		ratio = 1 / ratio
	}
	if g.Cost {
		return fmt.Sprintf("vethloom takes %.2f ×", 1/ratio)
	}
	return fmt.Sprintf("vethloom is %.2f × as fast", ratio)
}
