package arch

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

const (
	copyLines = 6 // equal lines that make a copy
	copyMost  = 8 // places of one run; one in more is a phrase of the language
)

// place is a line that counts, in the order of its file.
type place struct {
	file  string
	index int // among the lines of the file that count
	line  int
}

// copies finds the pairs of places in Go code that share six or more lines, with tests and without generated code.
// Blank lines, comments, imports and lines without a letter or digit do not count, and space is folded.
func copies(t *testing.T, dir string) []string {
	texts := map[string][]string{}
	windows := map[string][]place{}
	walk(t, dir, func(name string, text []byte) {
		if !strings.HasSuffix(name, ".go") || strings.HasPrefix(string(text), "// Code generated") {
			return
		}
		var places []place
		for i, line := range strings.Split(string(text), "\n") {
			if line = strings.Join(strings.Fields(line), " "); counts(line) {
				places = append(places, place{name, len(places), i + 1})
				texts[name] = append(texts[name], line)
			}
		}
		for i := 0; i+copyLines <= len(places); i++ {
			key := strings.Join(texts[name][i:i+copyLines], "\n")
			windows[key] = append(windows[key], places[i])
		}
	})
	var found []string
	for _, at := range windows {
		for i := 0; i < len(at) && len(at) <= copyMost; i++ {
			for _, b := range at[i+1:] {
				a := at[i]
				apart := a.file != b.file || b.index-a.index >= copyLines
				begins := a.index == 0 || b.index == 0 || texts[a.file][a.index-1] != texts[b.file][b.index-1]
				if apart && begins {
					found = append(found, fmt.Sprintf("%s:%d = %s:%d", a.file, a.line, b.file, b.line))
				}
			}
		}
	}
	slices.Sort(found)
	return found
}

// counts reports whether a line says something of its own.
func counts(line string) bool {
	switch {
	case strings.HasPrefix(line, "//"), strings.HasPrefix(line, "package "), strings.HasPrefix(line, "import "):
		return false
	case strings.HasPrefix(strings.TrimLeft(line, "abcdefghijklmnopqrstuvwxyz0123456789_. "), `"`) &&
		strings.HasSuffix(line, `"`):
		return false // an import, or a string alone
	}
	return strings.ContainsAny(strings.ToLower(line), "abcdefghijklmnopqrstuvwxyz0123456789")
}
