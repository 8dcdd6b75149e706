package build

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// references are the images that a Dockerfile names in FROM, COPY --from and RUN --mount=from=, in full, each once.
// Stages and further contexts are none. What cannot be parsed has none: buildkitd says what is wrong with it.
func (c *Config) references(text []byte) []string {
	ast, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return nil
	}
	stages, args, err := instructions.Parse(ast.AST, nil)
	if err != nil {
		return nil
	}
	lex := shell.NewLex(ast.EscapeToken)
	env := c.globals(lex, args)
	names := &imageNames{taken: map[string]bool{"scratch": true}}
	for _, v := range c.Contexts {
		name, _, _ := strings.Cut(v, "=")
		names.take(name)
	}
	for _, s := range stages {
		names.take(s.Name)
	}
	for _, s := range stages {
		if base, _, err := lex.ProcessWord(s.BaseName, env); err == nil {
			names.add(base)
		}
		for _, command := range s.Commands {
			for _, from := range sources(command) {
				names.add(from)
			}
		}
	}
	return names.all
}

// globals are the values of the arguments before the first FROM, and those that BuildKit has of its own.
func (c *Config) globals(lex *shell.Lex, args []instructions.ArgCommand) shell.EnvGetter {
	given := map[string]string{}
	for _, v := range c.BuildArgs {
		name, value, ok := strings.Cut(v, "=")
		if !ok {
			value, ok = c.Env(name)
		}
		if ok {
			given[name] = value
		}
	}
	build := platforms.DefaultSpec()
	target := build
	if p, err := platforms.Parse(c.Platform); err == nil {
		target = p
	}
	var env []string
	for name, value := range map[string]string{
		"BUILDPLATFORM": platforms.Format(build), "BUILDOS": build.OS, "BUILDARCH": build.Architecture,
		"BUILDVARIANT": build.Variant, "TARGETPLATFORM": platforms.Format(target), "TARGETOS": target.OS,
		"TARGETARCH": target.Architecture, "TARGETVARIANT": target.Variant,
	} {
		if v, ok := given[name]; ok {
			value = v
		}
		env = append(env, name+"="+value)
	}
	for _, command := range args {
		for _, arg := range command.Args {
			value, ok := given[arg.Key]
			if !ok && arg.Value != nil {
				v, _, err := lex.ProcessWord(*arg.Value, shell.EnvsFromSlice(env))
				value, ok = v, err == nil
			}
			if ok {
				env = append(env, arg.Key+"="+value)
			}
		}
	}
	return shell.EnvsFromSlice(env)
}

// sources are what a command takes files from.
func sources(command instructions.Command) (out []string) {
	switch cmd := command.(type) {
	case *instructions.CopyCommand:
		out = append(out, cmd.From)
	case *instructions.RunCommand:
		// BuildKit expands variables with what is known in the stage, of which images' configurations are a part.
		if err := cmd.Expand(func(word string) (string, error) { return word, nil }); err != nil {
			return nil
		}
		for _, m := range instructions.GetMounts(cmd) {
			out = append(out, m.From)
		}
	}
	return out
}

// imageNames collects names that are none of stages.
type imageNames struct {
	taken map[string]bool // in lower case, as BuildKit compares them
	all   []string
}

// take says that a name is not an image's. It is of no image either whose name is the same when it is written in full:
// BuildKit would take that one for the stage.
func (n *imageNames) take(name string) {
	if name == "" {
		return
	}
	n.taken[strings.ToLower(name)] = true
	if full, err := fullName(name); err == nil {
		n.taken[full] = true
	}
}

func (n *imageNames) add(name string) {
	if _, err := strconv.Atoi(name); name == "" || err == nil || n.taken[strings.ToLower(name)] {
		return // the context, or a stage by its number
	}
	if full, err := fullName(name); err == nil && !n.taken[full] && !slices.Contains(n.all, full) {
		n.all = append(n.all, full)
	}
}

func fullName(name string) (string, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("image %q: %w", name, err)
	}
	return reference.TagNameOnly(named).String(), nil
}
