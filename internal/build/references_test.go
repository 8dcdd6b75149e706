package build

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vethloom/vethloom/internal/build/request"
)

func TestReferences(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		args []string // build arguments
		want []string
	}{
		"plain": {"FROM bb\nFROM a.b:5000/c/d:1\nFROM bb:latest\n", nil,
			[]string{"docker.io/library/bb:latest", "a.b:5000/c/d:1"}},
		"a digest": {"FROM bb@sha256:" + strings.Repeat("0", 64), nil,
			[]string{"docker.io/library/bb@sha256:" + strings.Repeat("0", 64)}},
		"arguments": {"ARG A=1\nARG B=x-$A\nARG C\nFROM ${B:-none}:${C}", []string{"A=2", "C"},
			[]string{"docker.io/library/x-2:of-the-environment"}},
		"what BuildKit knows": {"FROM --platform=$BUILDPLATFORM app-$TARGETARCH", nil,
			[]string{"docker.io/library/app-s390x:latest"}},
		"an argument of a stage": {"FROM one\nARG A=two\nFROM $A", nil, []string{"docker.io/library/one:latest"}},
		"stages": {"FROM one AS Base\nFROM base AS two\nCOPY --from=0 / /\nCOPY --from=two / /\nCOPY --from=x/y / /\n" +
			"RUN --mount=from=four,target=/x true\nRUN --mount=type=cache,target=/x true\nCOPY . /", nil,
			[]string{"docker.io/library/one:latest", "docker.io/x/y:latest", "docker.io/library/four:latest"}},
		"a stage with its image's name": {"FROM golang AS golang\nFROM docker.io/library/golang", nil, nil},
		"a context's name":              {"FROM given\nFROM scratch\n", nil, nil},
		"another escape":                {"# escape=`\nFROM `\n  bb", nil, []string{"docker.io/library/bb:latest"}},
		"no Dockerfile":                 {"this is none", nil, nil},
		"no reference":                  {"FROM UPPER:::\nFROM $NONE\n", nil, nil},
		"nothing":                       {"", nil, nil},
	} {
		r := request.Request{BuildArgs: c.args, Contexts: []string{"given=."}, Platform: "linux/s390x"}
		config := &Config{Request: r,
			Env: func(name string) (string, bool) { return "of-the-environment", name == "C" }}
		if diff := cmp.Diff(c.want, config.references([]byte(c.text))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// Whatever a Dockerfile holds, it has references or none.
func FuzzReferences(f *testing.F) {
	f.Add("ARG A=1\nFROM a:$A AS b\nCOPY --from=c / /\nRUN --mount=from=d,target=/x <<E\ntrue\nE\n")
	f.Fuzz(func(t *testing.T, text string) {
		c := &Config{Env: func(string) (string, bool) { return "", false }}
		for _, name := range c.references([]byte(text)) {
			if full, err := fullName(name); err != nil || full != name {
				t.Errorf("%q is not in full: %q, %v", name, full, err)
			}
		}
	})
}
