package docker_test

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/volume"
	"github.com/moby/moby/client"
	"github.com/vethloom/vethloom/api/server/fake"
	"github.com/vethloom/vethloom/engine"
)

func TestVolume(t *testing.T) {
	d := fake.New()
	c, _ := serve(t, d)
	made, err := c.VolumeCreate(t.Context(), client.VolumeCreateOptions{Name: "data", Driver: "local",
		Labels: map[string]string{"keep": "yes"}, DriverOpts: map[string]string{"type": "tmpfs"}})
	if err != nil {
		t.Fatal(err)
	}
	want := volume.Volume{Name: "data", Driver: "local", Scope: "local", Labels: map[string]string{"keep": "yes"},
		Options: map[string]string{"type": "tmpfs"}, Mountpoint: "/var/lib/vethloom/volumes/data/_data",
		CreatedAt: "2026-01-31T12:00:00Z"}
	if diff := cmp.Diff(want, made.Volume); diff != "" {
		t.Error(diff)
	}
	seen, err := c.VolumeInspect(t.Context(), "data", client.VolumeInspectOptions{})
	if diff := cmp.Diff(want, seen.Volume); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	for what, o := range map[string]client.VolumeCreateOptions{
		"no volume driver":     {Name: "x", Driver: "nfs"},
		"not a swarm manager.": {Name: "x", ClusterVolumeSpec: &volume.ClusterVolumeSpec{}},
	} {
		_, err := c.VolumeCreate(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	mounts := []engine.Mount{{Source: "data", Target: "/data", Volume: true}}
	if _, _, err := d.Create(t.Context(), engine.Spec{Name: "app", Image: "busybox", Mounts: mounts}); err != nil {
		t.Fatal(err)
	}
	forced := client.VolumeRemoveOptions{Force: true}
	if _, err := c.VolumeRemove(t.Context(), "data", forced); !errdefs.IsConflict(err) {
		t.Errorf("remove one that is in use: %v", err)
	}
	if _, err := c.VolumeRemove(t.Context(), "nosuch", client.VolumeRemoveOptions{}); !errdefs.IsNotFound(err) {
		t.Errorf("remove one that there is not: %v", err)
	}
	if _, err := c.VolumeRemove(t.Context(), "nosuch", forced); err != nil {
		t.Errorf("the same with force: %v", err)
	}
}

func TestVolumeListAndPrune(t *testing.T) {
	c, _ := serve(t, fake.New())
	var anonymous string
	for _, o := range []client.VolumeCreateOptions{{Name: "data", Labels: map[string]string{"keep": "yes"}},
		{Name: "cache"}, {}} {
		v, err := c.VolumeCreate(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		anonymous = v.Volume.Name
	}
	for filter, want := range map[string]string{
		"": "data cache " + anonymous, "name=data": "data", "label=keep=yes": "data", "driver=other": "",
		"dangling=true": "data cache " + anonymous, "dangling=0": "",
	} {
		f := client.Filters{}
		if key, value, ok := strings.Cut(filter, "="); ok {
			f = f.Add(key, value)
		}
		all, err := c.VolumeList(t.Context(), client.VolumeListOptions{Filters: f})
		if err != nil {
			t.Errorf("%s: %v", filter, err)
		}
		var names []string
		for _, v := range all.Items {
			names = append(names, v.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: got %q, want %q", filter, got, want)
		}
	}
	for _, want := range []struct {
		all     bool
		filters client.Filters
		gone    string
	}{
		{false, nil, anonymous},
		{true, client.Filters{}.Add("label!", "keep"), "cache"},
		{false, nil, ""},
		{true, nil, "data"},
	} {
		p, err := c.VolumePrune(t.Context(), client.VolumePruneOptions{All: want.all, Filters: want.filters})
		if got := strings.Join(p.Report.VolumesDeleted, " "); got != want.gone || err != nil {
			t.Errorf("%+v: %q, %v", want, got, err)
		}
		if (p.Report.SpaceReclaimed > 0) != (want.gone != "") {
			t.Errorf("%+v: %d bytes", want, p.Report.SpaceReclaimed)
		}
	}
}
