package iptables

import (
	"fmt"
	"strings"
)

// table is the part of a table that was read or is to be: rules by chain, as iptables-save writes them.
type table struct {
	chains map[string][]string
	policy map[string]string // of builtin chains
}

// tables are those of one family, by name.
type tables map[string]*table

func (t tables) table(name string) *table {
	if t[name] == nil {
		t[name] = &table{chains: map[string][]string{}, policy: map[string]string{}}
	}
	return t[name]
}

// parse reads what iptables-save or ebtables-save prints.
func parse(text string) (tables, error) {
	all := tables{}
	var now *table
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#' || line == "COMMIT":
		case line[0] == '*':
			now = all.table(line[1:])
		case now == nil:
			return nil, fmt.Errorf("line %q is in no table", line)
		case line[0] == ':':
			name, rest, _ := strings.Cut(line[1:], " ")
			now.chains[name] = nil
			if isBuiltin(name) {
				now.policy[name], _, _ = strings.Cut(rest, " ")
			}
		case strings.HasPrefix(line, "-A "):
			name, _, _ := strings.Cut(line[3:], " ")
			now.chains[name] = append(now.chains[name], line)
		default:
			return nil, fmt.Errorf("line %q is neither a chain nor a rule", line)
		}
	}
	return all, nil
}

// isBuiltin reports whether a chain is one that the kernel calls.
func isBuiltin(name string) bool {
	switch name {
	case "PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING":
		return true
	}
	return false
}

// quote writes a comment as iptables-save does.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// unquote reads a comment from what follows "--comment ".
func unquote(s string) string {
	if !strings.HasPrefix(s, `"`) {
		word, _, _ := strings.Cut(s, " ")
		return word
	}
	var b strings.Builder
	for i := 1; i < len(s) && s[i] != '"'; i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
