package main

import (
	"errors"
	"strings"
	"testing"
)

// pulls is a chart of two engines: the second one cannot take the second image, and the third does nothing.
func pulls() *chart {
	c := &chart{Title: "Until the command ends", Unit: "s", Form: "%.1f", Columns: []string{"pull gzip", "pull zstd"}}
	for _, name := range []string{oursName, "docker", "floor"} {
		c.row(name, name == oursName)
	}
	for column, samples := range [][]float64{{2, 3, 4}, {1}} {
		for _, s := range samples {
			c.Rows[0].add(column, s)
		}
	}
	c.Rows[1].add(0, 6)
	c.Rows[1].Cells[1].Why = "cannot unpack it"
	return c
}

func TestChartIsMarkdown(t *testing.T) {
	c := pulls()
	c.expectRatio(c.Rows[1], "pull", 1.3)
	c.expectMost(4)
	c.tidy()
	var b strings.Builder
	c.table(&b)
	const want = `
| Until the command ends, s | pull gzip | pull zstd |
|---|---|---|
| vethloom | 3.0 | 1.0 |
| docker | 6.0 (2.00) | cannot unpack it |

- docker: at least 1.30 times as long as vethloom expected, met: pull gzip 2.00
- vethloom: below 4 s expected in every round, missed: at most 4.0
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &b, want)
	}
}

func TestExpectationsThatAreMissed(t *testing.T) {
	c := pulls()
	c.expectRatio(c.Rows[1], "pull", 2.5)
	c.expectRatio(c.Rows[1], "load", 2.5) // there is no such column: nothing is said
	c.expectMost(4.1)
	if len(c.Notes) != 2 || !strings.Contains(c.Notes[0], "missed: pull gzip 2.00") ||
		!strings.Contains(c.Notes[1], "met: at most 4.0") {
		t.Errorf("notes: %q", c.Notes)
	}
}

func TestFloors(t *testing.T) {
	c := pulls()
	c.near("docker", "floor")
	c.near("floor") // it has no figures
	const want = "- vethloom takes so many times the longer of the floors: pull gzip 0.50"
	if len(c.Notes) != 1 || c.Notes[0] != want {
		t.Errorf("notes %q, want %q", c.Notes, want)
	}
}

func TestChartWithoutVethloom(t *testing.T) {
	c := &chart{Title: "x", Unit: "s", Form: "%.0f", Columns: []string{"pull"}}
	c.row("docker", false)
	c.Rows[0].add(0, 7)
	c.expectRatio(c.Rows[0], "pull", 1.3)
	c.expectMost(4)
	c.near("docker")
	if got := c.cell(0, c.Rows[0]); got != "7" || len(c.Notes) > 0 {
		t.Errorf("cell %q, notes %q", got, c.Notes)
	}
}

// TestRefusalsAreToldApart has what docker says of images that it cannot take, and of other failures.
func TestRefusalsAreToldApart(t *testing.T) {
	im := &imager{limits: dockerLimits}
	const noTar = "failed to register layer: Error processing tar file(exit status 1): archive/tar: invalid tar header"
	for _, tc := range []struct{ kind, text, want string }{
		{kindZstd, noTar, "cannot unpack it"},
		{kindPlain, noTar, ""},
		{kindDeep, "failed to register layer: max depth exceeded", "takes 125 at most"},
		{kindZstd, "failed to register layer: max depth exceeded", ""},
		{kindZstd, "manifest for 127.0.0.1:5000/bench/picture1:latest not found: manifest unknown", ""},
		{kindZstd, "no matching manifest for linux/s390x in the manifest list entries", ""},
		{kindZstd, "Cannot connect to the Docker daemon at unix:///run/docker.sock", ""},
		{kindDeep, "no space left on device", ""},
	} {
		if got := im.refusal(tc.kind, errors.New(tc.text)); got != tc.want {
			t.Errorf("an image of kind %q, %s: %q, want %q", tc.kind, tc.text, got, tc.want)
		}
	}
}

func TestReleases(t *testing.T) {
	for version, want := range map[string]string{"20.10.24+dfsg1": "20.10.24", "1.6.20~ds1": "1.6.20",
		"29.1.0": "29.1.0", "": ""} {
		if got := release(version); got != want {
			t.Errorf("release of %q: %q, want %q", version, got, want)
		}
	}
}
