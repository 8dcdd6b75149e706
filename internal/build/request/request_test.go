package request

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

func parse(t *testing.T, args ...string) (*Request, *pflag.FlagSet) {
	t.Helper()
	r, f := &Request{}, pflag.NewFlagSet("build", pflag.ContinueOnError)
	r.Flags(f)
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	r.Context = f.Arg(0)
	return r, f
}

// What one program parsed is what the other one does.
func TestAnotherProgramIsAskedForTheSame(t *testing.T) {
	r, f := parse(t, "-t", "a:1", "-ttwo", "--no-cache", "--build-arg", "A=x y,z", "--build-arg=B", "-qf", "-f",
		"--network=web", "--label", "a=--b", "ctx")
	again, _ := parse(t, append(Args(f), "--", "ctx")...)
	if diff := cmp.Diff(r, again); diff != "" {
		t.Error(diff)
	}
	if r.File != "-f" || len(r.Tags) != 2 || !r.Quiet {
		t.Errorf("parsed as %+v", r)
	}
}

func TestCheck(t *testing.T) {
	for line, words := range map[string]string{
		"":                             "context is missing",
		"-f - -":                       "standard input is one of them",
		"--network= .":                 `--network "": want default`,
		"--platform linux/a,linux/b .": "one platform",
		"--progress loud .":            `--progress "loud": want auto`,
		"--builder-root here .":        "absolute path",
		"--label a .":                  `--label "a": want NAME=VALUE`,
		"--add-host a .":               "want NAME:ADDRESS",
		"--build-context =a .":         "want NAME=VALUE",
		"--build-arg =a .":             "want NAME=VALUE or NAME",
	} {
		r, _ := parse(t, strings.Fields(line)...)
		if err := r.Check(); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v, want %s", line, err, words)
		}
	}
	r, _ := parse(t, "--build-arg", "A", "--label", "a=", "--add-host", "b:1.2.3.4", "--add-host", "c=::1", ".")
	if err := r.Check(); err != nil {
		t.Error(err)
	}
}
