package cli_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/vethloom/vethloom/internal/cli"
	"github.com/vethloom/vethloom/internal/golden"
)

// commandPaths lists "net network create" and so on; groups are left out.
func commandPaths(root *cobra.Command) []string {
	var out []string
	for _, c := range root.Commands() {
		sub := commandPaths(c)
		if len(sub) > 0 && !strings.Contains(c.Use, " ") { // only holds others
			out = append(out, sub...)
			continue
		}
		if c.Name() != "help" && !c.Hidden {
			out = append(append(out, c.CommandPath()), sub...)
		}
	}
	return out
}

func find(root *cobra.Command, path string) *cobra.Command {
	c, rest, err := root.Find(strings.Fields(path)[1:])
	if err != nil || len(rest) > 0 {
		return nil
	}
	return c
}

// generatedBelow separates what people write in docs/cli.md from what
// -update writes.
const generatedBelow = "<!-- Below this line: go test ./internal/cli -run Docs -update -->\n"

// TestDocsAreThoseOfTheCommands compares the reference in docs/cli.md with the commands.
func TestDocsAreThoseOfTheCommands(t *testing.T) {
	const path = "../../docs/cli.md"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	intro, have, ok := strings.Cut(string(b), generatedBelow)
	if !ok {
		t.Fatalf("%s has no line %q", path, generatedBelow)
	}
	want := reference(cli.New("", "").Root())
	if golden.Update() {
		if err := os.WriteFile(path, []byte(intro+generatedBelow+want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("%s is not up to date: go test ./internal/cli -run Docs -update (-want +have):\n%s", path, diff)
	}
}

// reference is the Markdown of every command.
func reference(root *cobra.Command) string {
	var b strings.Builder
	for _, g := range root.Groups() {
		fmt.Fprintf(&b, "\n## %s\n", strings.TrimSuffix(g.Title, ":"))
		for _, path := range commandPaths(root) {
			cmd := find(root, path)
			top := cmd
			for top.Parent() != root {
				top = top.Parent()
			}
			if top.GroupID == g.ID {
				describe(&b, cmd)
			}
		}
	}
	return b.String()
}

func describe(b *strings.Builder, cmd *cobra.Command) {
	fmt.Fprintf(b, "\n### `%s`\n\n", cmd.CommandPath())
	if of := cmd.Annotations[cli.TwinOf]; of != "" {
		fmt.Fprintf(b, "The same as `%s`.\n", of)
		return
	}
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	fmt.Fprintf(b, "%s\n\n```console\n$ %s\n```\n", text, strings.ReplaceAll(strings.TrimLeft(cmd.Example, " "),
		"\n  ", "\n$ "))
	fmt.Fprintf(b, "\nUsage: `%s`", cmd.UseLine())
	if len(cmd.Aliases) > 0 {
		fmt.Fprintf(b, " (also `%s`)", strings.Join(cmd.Aliases, "`, `"))
	}
	b.WriteString("\n")
	rows := 0
	cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if f.Name == "help" || f.Hidden {
			return
		}
		if rows++; rows == 1 {
			b.WriteString("\n| flag | meaning |\n|---|---|\n")
		}
		name := "`--" + f.Name
		if f.Shorthand != "" {
			name = "`-" + f.Shorthand + "`, " + name
		}
		kind := strings.TrimSuffix(f.Value.Type(), "Array")
		if kind != "bool" {
			name += " " + kind
		}
		if strings.HasSuffix(f.Value.Type(), "Array") {
			name += " …"
		}
		meaning := f.Usage
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" && f.DefValue != "0" &&
			!strings.Contains(meaning, "(default") {
			meaning += " (default `" + f.DefValue + "`)"
		}
		fmt.Fprintf(b, "| %s` | %s |\n", name, strings.ReplaceAll(meaning, "|", "\\|"))
	})
}

func TestEveryCommandHasAnExample(t *testing.T) {
	root := cli.New("", "").Root()
	for _, path := range commandPaths(root) {
		cmd := find(root, path)
		if cmd == nil || !strings.Contains(cmd.Example, path) {
			t.Errorf("the help of %q has no example of it", path)
		}
	}
}

func TestCommandsBelowContainerAreThoseAbove(t *testing.T) {
	root := cli.New("", "").Root()
	twins := 0
	for _, path := range commandPaths(root) {
		cmd := find(root, path)
		of := cmd.Annotations[cli.TwinOf]
		if of == "" {
			continue
		}
		twins++
		first := find(root, of)
		if first == nil || first.Short != cmd.Short || !strings.HasPrefix(path, "net container ") {
			t.Errorf("%q is the same as %q: %v", path, of, first)
			continue
		}
		first.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			if cmd.LocalNonPersistentFlags().Lookup(f.Name) == nil {
				t.Errorf("%q has no --%s", path, f.Name)
			}
		})
	}
	if twins < 20 {
		t.Errorf("%d commands are there twice", twins)
	}
}
