// Package labs holds short documents that run: each explains one thing about container
// networks, shows the kernel's own tables, and is a test as well. Package internal/lab/script runs
// them, in a cluster that package internal/lab builds.
package labs

import (
	"embed"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

//go:embed *.md
var documents embed.FS

// Document is one lab.
type Document struct {
	Name string // 01-namespace
	Path string // for messages
	Text string
}

// All are the labs in their order.
func All() ([]Document, error) {
	names, err := fs.Glob(documents, "*.md")
	if err != nil {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	var out []Document
	for _, name := range names {
		text, err := documents.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read lab: %w", err)
		}
		out = append(out, Document{strings.TrimSuffix(name, ".md"), "labs/" + name, string(text)})
	}
	return out, nil
}

// Find finds a lab by its name, its number, or the path of a file.
func Find(name string) (Document, error) {
	all, err := All()
	if err != nil {
		return Document{}, err
	}
	var known []string
	for _, d := range all {
		number, _, _ := strings.Cut(d.Name, "-")
		if name == d.Name || name == number || name == strings.TrimLeft(number, "0") {
			return d, nil
		}
		known = append(known, d.Name)
	}
	if strings.HasSuffix(name, ".md") {
		text, err := os.ReadFile(name)
		if err != nil {
			return Document{}, fmt.Errorf("lab %q: %w", name, err)
		}
		return Document{"own", name, string(text)}, nil
	}
	return Document{}, fmt.Errorf("lab %q: there is none: %s, or the path of a .md file", name,
		strings.Join(known, ", "))
}
