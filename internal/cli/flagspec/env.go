package flagspec

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// Env resolves values of -e. KEY=VALUE stands as it is; KEY alone takes its
// value from lookup. Without one it stays KEY, which removes the image's.
func Env(values []string, lookup func(string) (string, bool)) ([]string, error) {
	var out []string
	for _, v := range values {
		key, _, given := strings.Cut(v, "=")
		if key == "" || strings.ContainsAny(key, "\x00") {
			return nil, fmt.Errorf("invalid -e %q: use KEY=VALUE, or KEY to pass on this environment's", v)
		}
		if given {
			out = append(out, v)
		} else if val, ok := lookup(key); ok {
			out = append(out, key+"="+val)
		} else {
			out = append(out, key)
		}
	}
	return out, nil
}

// EnvFile reads the lines of an --env-file, or of a --label-file: as -e takes them; empty lines and those that start
// with # are left out. The flag and the file's name are for errors.
func EnvFile(r io.Reader, flag, name string, lookup func(string) (string, bool)) ([]string, error) {
	var values []string
	s := bufio.NewScanner(r)
	for n := 1; s.Scan(); n++ {
		line := strings.TrimLeft(strings.TrimSuffix(s.Text(), "\r"), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		if key, _, _ := strings.Cut(line, "="); key == "" || strings.ContainsAny(key, " \t\x00") {
			return nil, fmt.Errorf("read --%s %s: line %d: %q is not a name", flag, name, n, key)
		}
		values = append(values, line)
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("read --%s %s: %w", flag, name, err)
	}
	return Env(values, lookup)
}

// KeyValues parses values of --label and --opt: KEY=VALUE, or KEY for an empty value.
func KeyValues(flag string, values []string) (map[string]string, error) {
	if len(values) == 0 {
		return nil, nil
	}
	out := make(map[string]string, len(values))
	for _, v := range values {
		key, val, _ := strings.Cut(v, "=")
		if key == "" {
			return nil, fmt.Errorf("invalid --%s %q: use KEY=VALUE", flag, v)
		}
		out[key] = val
	}
	return out, nil
}
