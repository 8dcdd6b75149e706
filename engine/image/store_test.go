package image_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func TestResolve(t *testing.T) {
	f := open(t)
	a := f.mustImport(t, files{{"a", "a"}}.tar(t), image.ImportOptions{Reference: "app"})
	b := f.mustImport(t, files{{"b", "b"}}.tar(t), image.ImportOptions{Reference: "example.org/team/app:1.2"})
	hex := strings.TrimPrefix(a.ID, "sha256:")
	for ref, want := range map[string]string{
		"app": a.ID, "app:latest": a.ID, "docker.io/library/app": a.ID, "index.docker.io/library/app:latest": a.ID,
		a.ID: a.ID, hex: a.ID, hex[:12]: a.ID, "sha256:" + hex[:12]: a.ID,
		"example.org/team/app:1.2": b.ID,
	} {
		got, err := f.Resolve(t.Context(), ref)
		if err != nil || got.ID != want {
			t.Errorf("resolve %q: %s, %v, want %s", ref, got.ID, err, want)
		}
	}
	for _, ref := range []string{"app:2", "missing", "example.org/team/app", "sha256:0123456789",
		strings.Repeat("0", 64), "app@" + a.ID} {
		_, err := f.Resolve(t.Context(), ref)
		if !errors.Is(err, cnm.ErrNotFound) && !errors.Is(err, cnm.ErrInvalid) {
			t.Errorf("resolve %q: %v, want ErrNotFound", ref, err)
		}
	}
	_, err := f.Resolve(t.Context(), "missing")
	if missing, ok := errors.AsType[*image.NotFoundError](err); !ok || missing.Ref != "missing:latest" {
		t.Errorf("error %v, want a NotFoundError for missing:latest", err)
	}
	if _, err := f.Resolve(t.Context(), "Not//valid"); !errors.Is(err, cnm.ErrInvalid) {
		t.Errorf("error %v, want ErrInvalid", err)
	}
	// Seventeen images share a first digit for certain.
	for range 15 {
		f.mustImport(t, files{{"x", string(randomBytes(8))}}.tar(t), image.ImportOptions{})
	}
	ambiguous := 0
	for _, digit := range "0123456789abcdef" {
		_, err := f.Resolve(t.Context(), "sha256:"+string(digit))
		if _, ok := errors.AsType[*image.AmbiguousError](err); ok {
			ambiguous++
		}
	}
	if ambiguous == 0 {
		t.Error("no prefix of one digit is ambiguous")
	}
}

func TestTagMoves(t *testing.T) {
	f := open(t)
	a := f.mustImport(t, files{{"a", "a"}}.tar(t), image.ImportOptions{Reference: "app"})
	b := f.mustImport(t, files{{"b", "b"}}.tar(t), image.ImportOptions{Reference: "app"})
	refs := func(id string) []string {
		t.Helper()
		img, err := f.Resolve(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return img.References
	}
	if len(refs(a.ID)) != 0 {
		t.Errorf("the old image still has %v", refs(a.ID))
	}
	if err := f.Tag(t.Context(), "app", "other:1"); err != nil {
		t.Fatal(err)
	}
	if err := f.Tag(t.Context(), a.ID, "app"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([][]string{{"app:latest"}, {"other:1"}}, [][]string{refs(a.ID), refs(b.ID)}); diff != "" {
		t.Error(diff)
	}
	if err := f.Tag(t.Context(), "app", "app"); err != nil || len(refs(a.ID)) != 1 {
		t.Errorf("tagging again: %v, %v", err, refs(a.ID))
	}
	if err := f.Tag(t.Context(), "missing", "x"); !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("error %v, want ErrNotFound", err)
	}
	if err := f.Tag(t.Context(), "app", "Bad Name"); !errors.Is(err, cnm.ErrInvalid) {
		t.Errorf("error %v, want ErrInvalid", err)
	}
}

func TestRemove(t *testing.T) {
	f := open(t)
	shared := files{{"shared", "s"}}.tar(t)
	a := f.mustImport(t, shared, image.ImportOptions{Reference: "a"})
	b := f.mustImport(t, shared, image.ImportOptions{Reference: "b"})
	if err := f.Tag(t.Context(), "a", "a2"); err != nil {
		t.Fatal(err)
	}
	remove := func(ref string, force bool, inUse func(string) []string, untagged, deleted []string, kind error) {
		t.Helper()
		u, d, err := f.Remove(t.Context(), ref, force, inUse)
		if diff := cmp.Diff([][]string{untagged, deleted}, [][]string{u, d}); diff != "" {
			t.Errorf("remove %s: %s", ref, diff)
		}
		if !errors.Is(err, kind) {
			t.Errorf("remove %s: error %v, want %v", ref, err, kind)
		}
	}
	used := func(string) []string { return []string{"web"} }
	remove(a.ID, false, nil, nil, nil, cnm.ErrInUse)           // two references
	remove("a2", false, used, []string{"a2:latest"}, nil, nil) // one of several
	remove("a", false, used, nil, nil, cnm.ErrInUse)           // the last one
	remove("a", true, used, []string{"a:latest"}, nil, nil)    // kept without a name
	remove("a", false, nil, nil, nil, cnm.ErrNotFound)         // its name is gone
	remove(a.ID, true, used, nil, nil, nil)                    // still needed
	remove(a.ID, false, nil, nil, []string{a.ID}, nil)         // b has the layer
	if layers, _ := f.onDisk(t); layers != 1 {
		t.Fatalf("%d layers, want the shared one", layers)
	}
	remove("b", false, nil, []string{"b:latest"}, []string{b.ID, b.Layers[0]}, nil)
	f.empty(t)
}

// A container that is made while its image is removed is in time for the removal to know it, or finds no image.
func TestConfirm(t *testing.T) {
	f := open(t)
	img := f.mustImport(t, rootfs(t), image.ImportOptions{Reference: "a"})
	if err := f.Confirm(t.Context(), img.ID); err != nil {
		t.Errorf("confirm: %v", err)
	}
	confirmed := make(chan error, 1)
	_, _, err := f.Remove(t.Context(), "a", false, func(string) []string {
		go func() { confirmed <- f.Confirm(t.Context(), img.ID) }()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-confirmed; !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("confirm during a removal that goes on: %v", err)
	}
}

func TestPrune(t *testing.T) {
	f := open(t)
	old := f.mustImport(t, files{{"a", "12345"}}.tar(t), image.ImportOptions{Reference: "app"})
	f.mustImport(t, files{{"b", "b"}}.tar(t), image.ImportOptions{Reference: "app"})
	prune := func(all bool, due func(image.Image) bool, inUse func(string) []string) image.Pruned {
		t.Helper()
		p, err := f.Prune(t.Context(), all, due, inUse)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := prune(true, nil, func(string) []string { return []string{"web"} }); len(p.Deleted) != 0 || p.Freed != 0 {
		t.Errorf("pruned %+v, though in use", p)
	}
	if p := prune(true, func(image.Image) bool { return false }, nil); len(p.Deleted) != 0 {
		t.Errorf("pruned %+v, though none is due", p)
	}
	before, err := f.DiskUsage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p := prune(false, nil, nil)
	if diff := cmp.Diff([]string{old.ID, old.Layers[0]}, p.Deleted); diff != "" {
		t.Error(diff)
	}
	after, err := f.DiskUsage(t.Context())
	if err != nil || before.Total-after.Total != p.Freed || p.Freed == 0 {
		t.Errorf("%d bytes are told to be freed, and it were %d: %v", p.Freed, before.Total-after.Total, err)
	}
	if p := prune(true, nil, nil); !slices.Equal(p.Untagged, []string{"app:latest"}) || p.Freed != after.Total {
		t.Errorf("pruned %+v, want all %d bytes", p, after.Total)
	}
	f.empty(t)
}

func TestImagesSurviveReopening(t *testing.T) {
	f := open(t)
	want := f.mustImport(t, rootfs(t), image.ImportOptions{Reference: "busybox", Changes: []string{"USER nobody"}})
	got, err := openAt(t, f.root, f.records).Resolve(t.Context(), "busybox")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(image.Image{})); diff != "" {
		t.Error(diff)
	}
	got.Config.Cmd, got.References[0] = []string{"changed"}, "changed"
	again, err := f.Resolve(t.Context(), "busybox")
	if diff := cmp.Diff(want, again, cmpopts.IgnoreUnexported(image.Image{})); diff != "" || err != nil {
		t.Errorf("a caller changed what is stored: %v %s", err, diff)
	}
}

func TestApplyChanges(t *testing.T) {
	var got v1.Config
	err := image.ApplyChanges(&got, []string{
		`cmd echo "hi there"`, `ENTRYPOINT ["/bin/a","b c"]`, `ENV A=1 B="two words" C=a\ b`, `ENV D the rest  of it`,
		`ENV A=2`,
		`LABEL "x.y"="z" k='v"w'`, `EXPOSE 80 8000-8002/udp 9/SCTP`, `USER 1000:100`, `VOLUME /data /var/../logs`,
		`VOLUME ["/json"]`,
		`WORKDIR /srv`, `WORKDIR app`, `STOPSIGNAL SIGINT`,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := v1.Config{
		Cmd: []string{"/bin/sh", "-c", `echo "hi there"`}, Entrypoint: []string{"/bin/a", "b c"},
		Env:          []string{"A=2", "B=two words", "C=a b", "D=the rest  of it"},
		Labels:       map[string]string{"x.y": "z", "k": `v"w`},
		ExposedPorts: map[string]struct{}{"80/tcp": {}, "8000/udp": {}, "8001/udp": {}, "8002/udp": {}, "9/sctp": {}},
		User:         "1000:100", Volumes: map[string]struct{}{"/data": {}, "/logs": {}, "/json": {}},
		WorkingDir: "/srv/app", StopSignal: "SIGINT",
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(image.Image{})); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"busybox", "a/b:c", "localhost:5000/x:y", "a@sha256:00", "UPPER", "", "a:b:c", "//",
		"index.docker.io/library/x", "index.docker.io/lix.dbrary/", "index.docker.io/a.b/c", "a//b", "-a", "a..b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		short, err := image.ParseReference(s)
		if err != nil {
			if !errors.Is(err, cnm.ErrInvalid) {
				t.Errorf("error %v is no ErrInvalid", err)
			}
			return
		}
		again, err := image.ParseReference(short)
		if err != nil || again != short {
			t.Errorf("%q becomes %q, and that becomes %q, %v", s, short, again, err)
		}
	})
}

func FuzzApplyChanges(f *testing.F) {
	for _, s := range []string{`CMD ["a"]`, "ENV a=b 'c=d'", "EXPOSE 1-65535/udp", "LABEL x",
		"WORKDIR ..", `VOLUME ["/a`, "USER \\"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var c v1.Config
		err := image.ApplyChanges(&c, []string{s})
		if err != nil && !errors.Is(err, cnm.ErrInvalid) {
			t.Errorf("error %v is no ErrInvalid", err)
		}
		if err == nil && c.WorkingDir != "" && (c.WorkingDir[0] != '/' || strings.Contains(c.WorkingDir+"/", "/../")) {
			t.Errorf("working directory %q", c.WorkingDir)
		}
	})
}
