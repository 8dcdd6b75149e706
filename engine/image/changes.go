package image

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/vethloom/vethloom/cnm"
)

// instructions are the Dockerfile instructions that set configuration.
var instructions = map[string]func(*v1.Config, string) error{
	"CMD":        func(c *v1.Config, arg string) (err error) { c.Cmd, err = command(arg); return },
	"ENTRYPOINT": func(c *v1.Config, arg string) (err error) { c.Entrypoint, err = command(arg); return },
	"ENV":        setEnv,
	"EXPOSE":     setExposed,
	"LABEL":      setLabels,
	"STOPSIGNAL": func(c *v1.Config, arg string) (err error) { c.StopSignal, err = oneWord(arg); return },
	"USER":       func(c *v1.Config, arg string) (err error) { c.User, err = oneWord(arg); return },
	"VOLUME":     setVolumes,
	"WORKDIR":    setWorkDir,
}

// ApplyChanges applies Dockerfile instructions, such as `CMD ["/bin/sh"]` or
// `ENV A=1`, to a configuration.
func ApplyChanges(c *v1.Config, changes []string) error {
	for _, change := range changes {
		word, arg, _ := strings.Cut(strings.TrimSpace(change), " ")
		arg = strings.TrimSpace(arg)
		apply, ok := instructions[strings.ToUpper(word)]
		if !ok {
			known := slices.Sorted(maps.Keys(instructions))
			return badChange(change, fmt.Sprintf("%q is no instruction that sets an image's configuration", word),
				"use one of "+strings.Join(known, ", "))
		}
		if arg == "" {
			return badChange(change, "has no value",
				"write it as in a Dockerfile, such as CMD [\"/bin/sh\"] or ENV NAME=VALUE")
		}
		if err := apply(c, arg); err != nil {
			return badChange(change, err.Error(),
				"write it as in a Dockerfile, such as CMD [\"/bin/sh\"] or ENV NAME=VALUE")
		}
	}
	return nil
}

func badChange(change, reason, remedy string) error {
	return &cnm.Error{Kind: cnm.ErrInvalid, Field: "change", Value: change, Reason: reason, Remedy: remedy}
}

// command takes a JSON list as it is, and has a shell run anything else.
func command(arg string) ([]string, error) {
	if list, ok := jsonList(arg); ok {
		return list, nil
	}
	return []string{"/bin/sh", "-c", arg}, nil
}

func jsonList(arg string) ([]string, bool) {
	if !strings.HasPrefix(arg, "[") {
		return nil, false
	}
	var list []string
	if err := json.Unmarshal([]byte(arg), &list); err != nil {
		return nil, false
	}
	return list, true
}

func setEnv(c *v1.Config, arg string) error {
	pairs, err := pairs(arg)
	for _, p := range pairs {
		i := slices.IndexFunc(c.Env, func(e string) bool { return strings.HasPrefix(e, p[0]+"=") })
		if i < 0 {
			c.Env = append(c.Env, p[0]+"="+p[1])
		} else {
			c.Env[i] = p[0] + "=" + p[1]
		}
	}
	return err
}

func setLabels(c *v1.Config, arg string) error {
	pairs, err := pairs(arg)
	for _, p := range pairs {
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		c.Labels[p[0]] = p[1]
	}
	return err
}

// pairs reads NAME=VALUE…, or NAME VALUE with the value up to the end of the line.
func pairs(arg string) ([][2]string, error) {
	if first, rest, ok := strings.Cut(arg, " "); ok && !strings.Contains(first, "=") {
		return [][2]string{{first, strings.TrimSpace(rest)}}, nil
	}
	fields, err := words(arg)
	if err != nil {
		return nil, err
	}
	var out [][2]string
	for _, f := range fields {
		key, value, ok := strings.Cut(f, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("%q is not NAME=VALUE", f)
		}
		out = append(out, [2]string{key, value})
	}
	return out, nil
}

// words splits at blanks, except where quotes or a backslash say otherwise.
func words(s string) ([]string, error) {
	var out []string
	var word strings.Builder
	quote, in, escaped := rune(0), false, false
	for _, r := range s {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, in = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '"' || r == '\'':
			quote, in = r, true
		case r == ' ' || r == '\t':
			if in {
				out = append(out, word.String())
				word.Reset()
			}
			in = false
		default:
			word.WriteRune(r)
			in = true
		}
	}
	if quote != 0 || escaped {
		return nil, fmt.Errorf("a quote or backslash is left open")
	}
	if in {
		out = append(out, word.String())
	}
	return out, nil
}

func oneWord(arg string) (string, error) {
	fields, err := words(arg)
	if err != nil {
		return "", err
	}
	if len(fields) != 1 {
		return "", fmt.Errorf("takes one word")
	}
	return fields[0], nil
}

func setWorkDir(c *v1.Config, arg string) error {
	dir, err := oneWord(arg)
	if err != nil {
		return err
	}
	if !path.IsAbs(dir) {
		dir = path.Join("/", c.WorkingDir, dir)
	}
	c.WorkingDir = path.Clean(dir)
	return nil
}

func setVolumes(c *v1.Config, arg string) error {
	targets, ok := jsonList(arg)
	if !ok {
		var err error
		if targets, err = words(arg); err != nil {
			return err
		}
	}
	for _, target := range targets {
		if !path.IsAbs(target) {
			return fmt.Errorf("%q is not an absolute path", target)
		}
		if c.Volumes == nil {
			c.Volumes = map[string]struct{}{}
		}
		c.Volumes[path.Clean(target)] = struct{}{}
	}
	return nil
}

func setExposed(c *v1.Config, arg string) error {
	for port := range strings.FieldsSeq(arg) {
		number, proto, ok := strings.Cut(port, "/")
		if !ok {
			proto = "tcp"
		}
		proto = strings.ToLower(proto)
		if proto != "tcp" && proto != "udp" && proto != "sctp" {
			return fmt.Errorf("%q is not of protocol tcp, udp or sctp", port)
		}
		first, last, ranged := strings.Cut(number, "-")
		if !ranged {
			last = first
		}
		from, err1 := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil || from == 0 || to < from {
			return fmt.Errorf("%q is not PORT[-PORT][/PROTOCOL] with ports from 1 to 65535", port)
		}
		if c.ExposedPorts == nil {
			c.ExposedPorts = map[string]struct{}{}
		}
		for p := from; p <= to; p++ {
			c.ExposedPorts[fmt.Sprintf("%d/%s", p, proto)] = struct{}{}
		}
	}
	return nil
}
