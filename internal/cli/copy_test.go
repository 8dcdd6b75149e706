package cli_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/internal/cli"
)

// command is a net of its own for each command line, in a directory.
type command struct {
	netd *netd
	dir  string
	in   string
}

// run runs a command line, whose words have no spaces.
func (c command) run(line string) (out, errs string, code int) {
	var o, e bytes.Buffer
	app := cli.New("1.0", "abc")
	app.In, app.Out, app.Err, app.Dir = strings.NewReader(c.in), &o, &e, c.dir
	app.Env = func(key string) (string, bool) { return "unix://" + c.netd.path, key == "VETHLOOM_HOST" }
	code = app.Run(context.Background(), strings.Fields(line))
	return o.String(), e.String(), code
}

// plant makes files with their names in them, directories (DIR/) and links (NAME->TARGET).
func plant(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		var err error
		at, target, isLink := strings.Cut(name, "->")
		path := filepath.Join(dir, at)
		switch {
		case isLink:
			err = os.Symlink(target, path)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o755)
		default:
			err = os.WriteFile(path, []byte(name), 0o640)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// entries are the names in a tar, with what links lead to.
func entries(t *testing.T, b []byte) (out []string) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			slices.Sort(out)
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		name := h.Name
		if h.Linkname != "" {
			name += "->" + h.Linkname
		}
		out = append(out, name)
	}
}

// What is copied to a container goes where Docker has it go, by what there is, and by the end of the paths. In the
// container there are the directories / and /srv; every other path is a file, but those below /none, which are nothing.
func TestCopyToContainer(t *testing.T) {
	c := command{netd: newNetd(t), dir: t.TempDir(), in: "not read"}
	plant(t, c.dir, "d/", "d/one", "d/sub/", "d/sub/two", "f", "to-d->d", "to-f->f", "far->/nowhere", ".hidden")
	if _, errs, code := c.run("create --name box busybox"); code != 0 {
		t.Fatal(errs)
	}
	whole := func(name string) string { return name + "/ " + name + "/one " + name + "/sub/ " + name + "/sub/two" }
	for args, want := range map[string]string{
		"d box:/srv":          "/srv: " + whole("d"),
		"d box:/srv/":         "/srv/: " + whole("d"),
		"d/ box:/srv":         "/srv: " + whole("d"),
		"d/. box:/srv":        "/srv: ./ ./one ./sub/ ./sub/two",
		"./d/sub box:/":       "/: sub/ sub/two",
		"f box:/srv":          "/srv: f",
		"f box:/srv/.":        "/srv/.: f",
		"./f box:/etc/hosts":  "/etc: hosts",
		".hidden box:/srv":    "/srv: .hidden",
		"to-f box:/srv":       "/srv: to-f->f",
		"-L to-f box:/srv":    "/srv: to-f",
		"-L to-d box:/srv":    "/srv: " + whole("to-d"),
		"to-d box:/srv":       "/srv: to-d->d",
		"far box:/srv":        "/srv: far->/nowhere",
		"-a f box:/srv":       "/srv: f owners",
		"d box:/none/such":    "/none: " + whole("such"),
		"d/. box:/none/such":  "/none: " + whole("such"),
		"f box:/none/such":    "/none: such",
		c.dir + "/f box:/srv": "/srv: f",
	} {
		_, errs, code := c.run("cp " + args)
		if code != 0 || errs != "" {
			t.Errorf("cp %s ends with %d: %s", args, code, errs)
			continue
		}
		got := c.netd.domain.Copied()
		text := got.Path + ": " + strings.Join(entries(t, got.Tar), " ")
		if got.Options.KeepOwners {
			text += " owners"
		}
		if text != want || !got.Options.NoOverwriteDir {
			t.Errorf("cp %s unpacks in %s, want %s", args, text, want)
		}
	}
	for args, want := range map[string]string{
		"d box:/etc/hosts":  "it is a directory, and /etc/hosts in the container is none",
		"f box:/none/such/": "there is no directory /none/such/ in the container",
		"f/ box:/srv":       "not a directory",
		"-L far box:/srv":   "no such file or directory",
		"- box:/none":       "is no directory, which a tar needs",
	} {
		if _, errs, code := c.run("cp " + args); code != 1 || !strings.Contains(errs, want) {
			t.Errorf("cp %s ends with %d, %q; want %s", args, code, errs, want)
		}
	}
	c.in = "a tar"
	if _, errs, code := c.run("cp - box:/srv"); code != 0 || string(c.netd.domain.Copied().Tar) != "a tar" {
		t.Errorf("cp of standard input ends with %d, %q: %q", code, errs, c.netd.domain.Copied().Tar)
	}
}

// What is copied from a container goes where Docker has it go.
func TestCopyFromContainer(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range []string{"d/", "d/one", "d/sub/", "d/sub/two"} {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Uid: 12345}
		if strings.HasSuffix(name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	n := newNetd(t)
	n.domain.SetArchive(b.Bytes(), fs.ModeDir|0o755)
	if _, errs, code := (command{netd: n, dir: t.TempDir()}).run("create --name box busybox"); code != 0 {
		t.Fatal(errs)
	}
	for args, want := range map[string]string{
		"box:/x/d .":          "d d/one d/sub d/sub/two here here/file",
		"box:/x/d new":        "here here/file new new/one new/sub new/sub/two",
		"box:/x/d new/":       "here here/file new new/one new/sub new/sub/two",
		"box:/x/d here":       "here here/d here/d/one here/d/sub here/d/sub/two here/file",
		"-a -q box:/x/d here": "here here/d here/d/one here/d/sub here/d/sub/two here/file",
		"box:/x/d/. here":     "here here/file here/one here/sub here/sub/two",
	} {
		c := command{netd: n, dir: t.TempDir()}
		plant(t, c.dir, "here/", "here/file")
		if args == "box:/x/d/. here" { // then netd sends no directory of the name
			n.domain.SetArchive(retar(t, b.Bytes(), "d/", "./"), fs.ModeDir|0o755)
		} else {
			n.domain.SetArchive(b.Bytes(), fs.ModeDir|0o755)
		}
		if _, errs, code := c.run("cp " + args); code != 0 || errs != "" {
			t.Errorf("cp %s ends with %d: %s", args, code, errs)
		}
		var have []string
		if err := filepath.WalkDir(c.dir, func(path string, _ fs.DirEntry, err error) error {
			rel, relErr := filepath.Rel(c.dir, path)
			have = append(have, rel)
			return errors.Join(err, relErr)
		}); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(have[1:], " "); got != want {
			t.Errorf("cp %s makes %s, want %s", args, got, want)
		}
	}
	out, _, code := (command{netd: n, dir: t.TempDir()}).run("cp box:/x/d -")
	if code != 0 || len(entries(t, []byte(out))) != 4 {
		t.Errorf("a tar on standard output: %d, %q", code, out)
	}
}

// retar gives the entries of a tar other names.
func retar(t *testing.T, b []byte, from, to string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range entries(t, b) {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: to + strings.TrimPrefix(name, from), Mode: 0o755}
		if strings.HasSuffix(name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// The state of a container is told as Docker tells it.
func TestStatusTexts(t *testing.T) {
	c := command{netd: newNetd(t), dir: t.TempDir()}
	if _, errs, code := c.run("run -d --name box busybox sleep"); code != 0 {
		t.Fatal(errs)
	}
	for want, edit := range map[string]func(*engine.Container){
		"running  Up":          func(*engine.Container) {},
		"running healthy Up":   func(c *engine.Container) { c.Health = &engine.Health{Status: engine.HealthGood} },
		"running starting Up":  func(c *engine.Container) { c.Health = &engine.Health{Status: engine.HealthStarting} },
		"running unhealthy Up": func(c *engine.Container) { c.Health = &engine.Health{Status: engine.HealthUnhealthy} },
		"restarting  Restarting (3)": func(c *engine.Container) {
			c.Status, c.ExitCode = engine.Restarting, 3
		},
		"paused  Up": func(c *engine.Container) { c.Status = engine.Paused },
	} {
		if err := c.netd.domain.Edit("box", func(ct *engine.Container) {
			ct.Status, ct.Health, ct.ExitCode = engine.Running, nil, 0
			edit(ct)
		}); err != nil {
			t.Fatal(err)
		}
		out, errs, code := c.run("ps -a --format {{.State}}|{{.Health}}|{{.Status}}")
		got := strings.ReplaceAll(strings.TrimSpace(out), "|", " ")
		if code != 0 || !strings.HasPrefix(got, want) {
			t.Errorf("ps tells %q, %s; want %s", got, errs, want)
		}
		end := map[string]string{"running healthy Up": "(healthy)", "running starting Up": "(health: starting)",
			"running unhealthy Up": "(unhealthy)", "paused  Up": "(Paused)"}[want]
		if !strings.HasSuffix(got, end) {
			t.Errorf("ps tells %q, want %s at its end", got, end)
		}
	}
}
