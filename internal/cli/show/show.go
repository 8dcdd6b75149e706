package show

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"text/template"

	"github.com/spf13/cobra"
)

// Column is one field of the things a command lists.
type Column[T any] struct {
	Name   string // in templates
	Header string // in tables
	Hidden bool   // only in templates and JSON
	Value  func(T) string
}

// Lister shows a list: as a table, as IDs, as JSON lines or by a template.
type Lister[T any] struct {
	Format  string
	Quiet   bool
	NoTrunc bool
	Columns []Column[T]
	ID      func(T) string // what -q prints
}

func (l *Lister[T]) Flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&l.Format, "format", "", "table, json, or a Go template for each line ('table TEMPLATE' adds a header)")
	f.BoolVarP(&l.Quiet, "quiet", "q", false, "print IDs or names only")
	f.BoolVar(&l.NoTrunc, "no-trunc", false, "do not shorten values")
	Must(cmd.RegisterFlagCompletionFunc("format", Fixed("table", "json")))
}

// Show writes the things.
func (l *Lister[T]) Show(w io.Writer, things []T) error {
	switch tmpl, isTable := strings.CutPrefix(l.Format, "table"); {
	case l.Quiet:
		for _, t := range things {
			if err := Println(w, l.ID(t)); err != nil {
				return err
			}
		}
		return nil
	case l.Format == "json":
		enc := newEncoder(w)
		for _, t := range things {
			if err := enc.Encode(l.row(t)); err != nil {
				return err
			}
		}
		return nil
	case l.Format == "" || isTable:
		return l.table(w, things, strings.TrimSpace(tmpl))
	default:
		return l.template(w, things, l.Format, false)
	}
}

func (l *Lister[T]) row(t T) map[string]string {
	row := make(map[string]string, len(l.Columns))
	for _, c := range l.Columns {
		row[c.Name] = c.Value(t)
	}
	return row
}

func (l *Lister[T]) table(w io.Writer, things []T, tmpl string) error {
	if tmpl == "" {
		var fields []string
		for _, c := range l.Columns {
			if !c.Hidden {
				fields = append(fields, "{{."+c.Name+"}}")
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

func (l *Lister[T]) template(w io.Writer, things []T, text string, header bool) error {
	t, err := Template(text)
	if err != nil {
		return err
	}
	t = t.Option("missingkey=error")
	rows := make([]map[string]string, 0, len(things)+1)
	if header {
		row := map[string]string{}
		for _, c := range l.Columns {
			row[c.Name] = c.Header
		}
		rows = append(rows, row)
	}
	for _, thing := range things {
		row := l.row(thing)
		for name, text := range row {
			row[name] = Plain(text)
		}
		rows = append(rows, row)
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
func (l *Lister[T]) explain(err error) error {
	var exec template.ExecError
	if !errors.As(err, &exec) {
		return err
	}
	names := make([]string, 0, len(l.Columns))
	for _, c := range l.Columns {
		names = append(names, "."+c.Name)
	}
	return fmt.Errorf("--format: %w: the fields are %s", err, strings.Join(names, " "))
}

func Template(text string) (*template.Template, error) {
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
		return nil, fmt.Errorf("--format: %w: it must be a Go template (pkg.go.dev/text/template), such as "+
			"'{{.Name}}'", err)
	}
	return t, nil
}

// Inspector shows single things: as a JSON array, or by a template.
type Inspector struct{ Format string }

func (i *Inspector) Flags(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&i.Format, "format", "f", "", "json, or a Go template for each thing")
	Must(cmd.RegisterFlagCompletionFunc("format", Fixed("json")))
}

// Show looks every argument up and writes what it found. It returns why others were not.
func (i *Inspector) Show(w io.Writer, args []string, get func(string) (any, error)) (errs []error, err error) {
	found := []any{}
	for _, arg := range args {
		v, err := get(arg)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		found = append(found, v)
	}
	return errs, i.Write(w, found)
}

func (i *Inspector) Write(w io.Writer, found []any) error {
	if i.Format == "" || i.Format == "json" {
		enc := newEncoder(w)
		if i.Format == "" {
			enc.SetIndent("", "    ")
		}
		return enc.Encode(found)
	}
	t, err := Template(i.Format)
	if err != nil {
		return err
	}
	for _, v := range found {
		var b strings.Builder
		if err := execute(t, &b, v); err != nil {
			return fmt.Errorf("--format: %w: see the fields with 'inspect' alone", err)
		}
		if err := Println(w, b.String()); err != nil {
			return err
		}
	}
	return nil
}

// execute fills a template with a thing's fields, by their names here or else by those that JSON has.
func execute(t *template.Template, b *strings.Builder, v any) error {
	err := t.Execute(b, v)
	if err == nil {
		return nil
	}
	text, jsonErr := json.Marshal(v)
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber() // bytes and nanoseconds are no floats
	var fields any
	if jsonErr != nil || d.Decode(&fields) != nil {
		return err
	}
	byJSON, jsonErr := t.Clone()
	if jsonErr != nil {
		return err
	}
	b.Reset()
	if byJSON.Option("missingkey=error").Execute(b, fields) != nil {
		return err
	}
	return nil
}

// ShortID is as much of an ID as tables show.
func ShortID(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(12, len(id))]
}

// Must panics on what only a defect of this package can cause: a completion
// for a flag that does not exist.
func Must(err error) {
	if err != nil {
		panic(err)
	}
}

// Fixed offers the same words always.
func Fixed(words ...cobra.Completion) cobra.CompletionFunc {
	return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
}
