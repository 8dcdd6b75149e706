package engine_test

import (
	"slices"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/volume"
)

// What is shown of a container is what it has: the image's values where none was asked for.
func TestInspectShowsTheImagesValues(t *testing.T) {
	w := newWorld(t)
	w.images.config = ocispec.ImageConfig{Env: []string{"A=image", "B=image"}, User: "nobody", WorkingDir: "/tmp",
		Labels: map[string]string{"team": "x", "of": "image"}, StopSignal: "INT", Cmd: []string{"sleep", "9"}}
	plain := w.create(engine.Spec{Name: "plain", Image: "busybox", Mounts: []engine.Mount{
		{Source: "data", Target: "/d", Volume: true}}})
	own := w.create(engine.Spec{Name: "own", Image: "busybox", Env: []string{"A", "B=own"}, User: "0:0", WorkDir: "/",
		Labels: map[string]string{"of": "me"}, Command: []string{"true"}, StopSignal: "TERM"})
	for id, want := range map[string]struct {
		env                       []string
		user, dir, of, stop, runs string
	}{
		plain.ID: {[]string{"A=image", "B=image"}, "nobody", "/tmp", "image", "INT", "sleep"},
		own.ID:   {[]string{"B=own"}, "0:0", "/", "me", "TERM", "true"},
	} {
		d, err := w.e.Inspect(t.Context(), "/"+id)
		if err != nil {
			t.Fatal(err)
		}
		s := d.Spec
		if !slices.Equal(s.Env, want.env) || s.User != want.user || s.WorkDir != want.dir ||
			s.Labels["of"] != want.of || s.Labels["team"] != "x" || s.StopSignal != want.stop ||
			s.Command[0] != want.runs {
			t.Errorf("%s: %+v, want %+v", s.Name, s, want)
		}
	}
	v, _, err := w.vols.Ensure(t.Context(), volume.Request{Name: "data"})
	if err != nil {
		t.Fatal(err)
	}
	if d, err := w.e.Inspect(t.Context(), "/plain"); err != nil || d.Volumes["data"] != v.Path {
		t.Errorf("the volume is at %v, %v, want %s", d.Volumes, err, v.Path)
	}
}
