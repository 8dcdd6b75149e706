package server

import (
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// filters are the values asked for, by key. Values of one key are
// alternatives, keys must all match; labels must all match too.
type filters map[string][]string

func parseFilters(given []string, known ...string) (filters, error) {
	keys, values := []string{}, map[string]string{}
	for _, k := range known {
		key, value, _ := strings.Cut(k, "=")
		keys, values[key] = append(keys, key), value
	}
	f := filters{}
	for _, g := range given {
		key, value, ok := strings.Cut(g, "=")
		if !ok || !slices.Contains(keys, key) {
			return nil, invalid("filter", g, "is not a known filter",
				"use KEY=VALUE with one of the keys "+strings.Join(keys, ", "))
		}
		if all := strings.Split(values[key], "|"); values[key] != "" && !slices.Contains(all, value) {
			return nil, invalid("filter", g, "has a value that nothing has",
				"use "+key+"= with one of "+strings.Join(all, ", "))
		}
		if key == "name" {
			if _, err := regexp.Compile(strings.TrimPrefix(value, "/")); err != nil {
				return nil, invalid("filter", g, "is no regular expression ("+err.Error()+")",
					"put a backslash before ( ) [ ] { } * + ? that stand for themselves")
			}
		}
		f[key] = append(f[key], value)
	}
	return f, nil
}

func (f filters) match(key string, ok func(want string) bool) bool {
	return len(f[key]) == 0 || slices.ContainsFunc(f[key], ok)
}

func (f filters) equal(key, have string) bool {
	return f.match(key, func(want string) bool { return want == have })
}

// named matches a name with regular expressions, as Docker does.
func (f filters) named(key, have string) bool {
	return f.match(key, func(want string) bool {
		re, err := regexp.Compile(strings.TrimPrefix(want, "/"))
		return err == nil && re.MatchString(have) // parseFilters has seen that it is one
	})
}

func (f filters) prefix(key, have string) bool {
	return f.match(key, func(want string) bool { return strings.HasPrefix(have, want) })
}

// anyOf matches when one of several names is wanted.
func (f filters) anyOf(key string, have ...string) bool {
	return f.match(key, func(want string) bool { return slices.Contains(have, want) })
}

func (f filters) labels(have map[string]string) bool {
	for _, want := range f["label"] {
		key, value, given := strings.Cut(want, "=")
		if v, ok := have[key]; !ok || given && v != value {
			return false
		}
	}
	return true
}

// unlabelled refuses what has one of the labels of label!=.
func (f filters) unlabelled(have map[string]string) bool {
	for _, unwanted := range f["label!"] {
		key, value, given := strings.Cut(unwanted, "=")
		if v, ok := have[key]; ok && (!given || v == value) {
			return false
		}
	}
	return true
}

// boolean matches one of true, false, 1 and 0.
func (f filters) boolean(key string, have bool) bool {
	return f.match(key, func(want string) bool {
		b, err := strconv.ParseBool(want)
		return err == nil && b == have
	})
}

// until is the time before which something was made that is wanted; the zero time without such a filter.
func (f filters) until(now time.Time) (time.Time, error) {
	var at time.Time
	values := f["until"]
	switch {
	case len(values) == 0:
		return at, nil
	case len(values) > 1:
		return at, invalid("filter", "until="+values[1], "is given twice", "give it once")
	}
	value := values[0]
	if d, err := time.ParseDuration(value); err == nil {
		return now.Add(-d), nil
	}
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil {
		return time.Unix(seconds, 0), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} {
		if at, err := time.ParseInLocation(layout, value, now.Location()); err == nil {
			return at, nil
		}
	}
	return at, invalid("filter", "until="+value, "is no time",
		"use one such as 2026-01-31T15:04:05, the seconds since 1970, or how long ago: 24h, 10m")
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// references are those of an image's names that are wanted: a name without tag
// stands for every tag, and path.Match patterns are taken.
func (f filters) references(have []string) []string {
	var out []string
	for _, ref := range have {
		name := ref
		if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
			name = ref[:i]
		}
		if f.match("reference", func(want string) bool {
			whole, wholeErr := path.Match(want, ref)
			short, shortErr := path.Match(want, name)
			return wholeErr == nil && whole || shortErr == nil && short
		}) {
			out = append(out, ref)
		}
	}
	return out
}
