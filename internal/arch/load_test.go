package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const modulePath = "github.com/vethloom/vethloom"

// pkg is what `go list -json` says of one package.
type pkg struct {
	ImportPath string
	Doc        string
	GoFiles    []string
	CgoFiles   []string
	Imports    []string // direct, without tests
	Deps       []string // all
	Error      *struct{ Err string }

	// Dir is the path inside the module.
	Dir string `json:"-"`
}

// own returns the directories of this module that p imports.
func (p pkg) own() []string {
	var dirs []string
	for _, imp := range p.Imports {
		if dir, ok := strings.CutPrefix(imp, modulePath+"/"); ok {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// packages by directory inside the module.
type packages map[string]pkg

func (ps packages) module() []pkg {
	out := make([]pkg, 0, len(ps))
	for _, p := range ps {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b pkg) int { return strings.Compare(a.Dir, b.Dir) })
	return out
}

func (ps packages) find(t *testing.T, dir string) pkg {
	t.Helper()
	p, ok := ps[dir]
	if !ok {
		t.Fatalf("%s does not exist", dir)
	}
	return p
}

func load(t *testing.T) packages {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-tags", "seccomp",
		"-json=ImportPath,Doc,GoFiles,CgoFiles,Imports,Deps,Error", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	ps := packages{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("what go list printed: %v", err)
		}
		if p.Error != nil {
			t.Errorf("%s: %s", p.ImportPath, p.Error.Err)
		}
		p.Dir = strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, modulePath), "/")
		ps[p.Dir] = p
	}
	if len(ps) == 0 {
		t.Fatal("go list found no package")
	}
	return ps
}
