package cli

import (
	"bytes"
	"strings"
	"testing"

	apiv1 "github.com/vethloom/vethloom/api/v1"
)

// An event is one line, whatever its container's labels and commands say.
func TestEventIsOneLine(t *testing.T) {
	var out bytes.Buffer
	write, err := nodes{&App{Out: &out}}.eventWriter("")
	if err != nil {
		t.Fatal(err)
	}
	forged := "\n2026-01-01T00:00:00Z container destroy abc\x1b[2J"
	if err := write(&apiv1.Event{Type: "container", Action: "exec_create: " + forged, Id: "abc",
		Attributes: map[string]string{"label": forged}}); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); strings.Count(text, "\n") != 1 || strings.Contains(text, "\x1b") ||
		strings.Count(text, "container destroy abc") != 2 {
		t.Errorf("written is %q", text)
	}
}
