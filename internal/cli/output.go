package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"text/template"

	"github.com/spf13/cobra"
)

// column is one field of the things a command lists.
type column[T any] struct {
	name   string // in templates
	header string // in tables
	hidden bool   // only in templates and JSON
	value  func(T) string
}

// lister shows a list: as a table, as IDs, as JSON lines or by a template.
type lister[T any] struct {
	format  string
	quiet   bool
	noTrunc bool
	columns []column[T]
	id      func(T) string // what -q prints
}

func (l *lister[T]) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&l.format, "format", "", "table, json, or a Go template for each line ('table TEMPLATE' adds a header)")
	f.BoolVarP(&l.quiet, "quiet", "q", false, "print IDs or names only")
	f.BoolVar(&l.noTrunc, "no-trunc", false, "do not shorten values")
	must(cmd.RegisterFlagCompletionFunc("format", fixed("table", "json")))
}

// show writes the things.
func (l *lister[T]) show(w io.Writer, things []T) error {
	switch tmpl, isTable := strings.CutPrefix(l.format, "table"); {
	case l.quiet:
		for _, t := range things {
			if _, err := fmt.Fprintln(w, l.id(t)); err != nil {
				return err
			}
		}
		return nil
	case l.format == "json":
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		for _, t := range things {
			if err := enc.Encode(l.row(t)); err != nil {
				return err
			}
		}
		return nil
	case l.format == "" || isTable:
		return l.table(w, things, strings.TrimSpace(tmpl))
	default:
		return l.template(w, things, l.format, false)
	}
}

func (l *lister[T]) row(t T) map[string]string {
	row := make(map[string]string, len(l.columns))
	for _, c := range l.columns {
		row[c.name] = c.value(t)
	}
	return row
}

func (l *lister[T]) table(w io.Writer, things []T, tmpl string) error {
	if tmpl == "" {
		var fields []string
		for _, c := range l.columns {
			if !c.hidden {
				fields = append(fields, "{{."+c.name+"}}")
			}
		}
		tmpl = strings.Join(fields, "\t")
	}
	tw := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
	if err := l.template(tw, things, tmpl, true); err != nil {
		return err
	}
	return tw.Flush()
}

func (l *lister[T]) template(w io.Writer, things []T, text string, header bool) error {
	t, err := parseTemplate(text)
	if err != nil {
		return err
	}
	t = t.Option("missingkey=error")
	rows := make([]map[string]string, 0, len(things)+1)
	if header {
		row := map[string]string{}
		for _, c := range l.columns {
			row[c.name] = c.header
		}
		rows = append(rows, row)
	}
	for _, thing := range things {
		rows = append(rows, l.row(thing))
	}
	for _, row := range rows {
		if err := t.Execute(w, row); err != nil {
			return l.explain(err)
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
	}
	return nil
}

// explain tells a template's author which fields there are.
func (l *lister[T]) explain(err error) error {
	var exec template.ExecError
	if !errors.As(err, &exec) {
		return err
	}
	names := make([]string, 0, len(l.columns))
	for _, c := range l.columns {
		names = append(names, "."+c.name)
	}
	return fmt.Errorf("--format: %w: the fields are %s", err, strings.Join(names, " "))
}

func parseTemplate(text string) (*template.Template, error) {
	// A shell leaves \t and \n as they are; people mean the characters.
	text = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(text)
	t, err := template.New("format").Funcs(template.FuncMap{
		"json": func(v any) (string, error) {
			var b strings.Builder
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(false)
			err := enc.Encode(v)
			return strings.TrimSuffix(b.String(), "\n"), err
		},
		"join":  func(v []string, sep string) string { return strings.Join(v, sep) },
		"split": strings.Split,
		"lower": strings.ToLower,
		"upper": strings.ToUpper,
		"title": func(s string) string {
			if s == "" {
				return s
			}
			return strings.ToUpper(s[:1]) + s[1:]
		},
		"truncate": func(s string, n int) string { return s[:min(max(n, 0), len(s))] },
		"pad": func(s string, before, after int) string {
			return strings.Repeat(" ", max(before, 0)) + s + strings.Repeat(" ", max(after, 0))
		},
	}).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("--format: %w: it must be a Go template (pkg.go.dev/text/template), such as '{{.Name}}'", err)
	}
	return t, nil
}

// inspector shows single things: as a JSON array, or by a template.
type inspector struct{ format string }

func (i *inspector) flags(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&i.format, "format", "f", "", "json, or a Go template for each thing")
	must(cmd.RegisterFlagCompletionFunc("format", fixed("json")))
}

// show looks every argument up and writes what it found; those that were not
// found are reported after that.
func (i *inspector) show(a *App, args []string, get func(string) (any, error)) error {
	found := []any{}
	var errs []error
	for _, arg := range args {
		v, err := get(arg)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		found = append(found, v)
	}
	if err := i.write(a.Out, found); err != nil {
		return err
	}
	for _, err := range errs {
		fmt.Fprintf(a.Err, "net: %v\n", err)
	}
	if len(errs) > 0 {
		return &exitError{code: exitFailure}
	}
	return nil
}

func (i *inspector) write(w io.Writer, found []any) error {
	if i.format == "" || i.format == "json" {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		if i.format == "" {
			enc.SetIndent("", "    ")
		}
		return enc.Encode(found)
	}
	t, err := parseTemplate(i.format)
	if err != nil {
		return err
	}
	for _, v := range found {
		if err := t.Execute(w, v); err != nil {
			return fmt.Errorf("--format: %w: see the fields with 'inspect' alone", err)
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
	}
	return nil
}

// shortID is as much of an ID as tables show.
func shortID(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(12, len(id))]
}

// must panics on what only a defect of this package can cause: a completion
// for a flag that does not exist.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
