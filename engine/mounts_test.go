package engine_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/volume"
	"github.com/vethloom/vethloom/internal/await"
)

// hostMount is a directory that a small file system is mounted at, with a propagation, until the test ends.
func hostMount(t *testing.T, propagation uintptr) string {
	t.Helper()
	dir := t.TempDir()
	mountAt(t, dir)
	if err := unix.Mount("", dir, "", propagation, ""); err != nil {
		t.Fatal(err)
	}
	return dir
}

func mountAt(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("test", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
}

// seen reports whether a container has a file.
func seen(w *world, c engine.Container, path string) bool {
	return w.exec(c.ID, "test", "-e", path).Code == 0
}

func TestPropagation(t *testing.T) {
	w := newWorld(t)
	// start has a container show the source; a file system with a file in it is mounted below it on the host then.
	start := func(t *testing.T, source, propagation string) engine.Container {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(source, "later"), 0o755); err != nil {
			t.Fatal(err)
		}
		c := w.start(engine.Spec{Command: []string{"sleep", "1000"}, Options: privileged(), Mounts: []engine.Mount{
			{Source: source, Target: "/m", Propagation: propagation}}})
		mountAt(t, filepath.Join(source, "later"))
		if err := os.WriteFile(filepath.Join(source, "later/file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, propagation := range []string{"", "private", "rprivate"} {
		t.Run("none by "+propagation, func(t *testing.T) {
			c := start(t, hostMount(t, unix.MS_SHARED), propagation)
			if seen(w, c, "/m/later/file") {
				t.Error("what the host mounted later is seen")
			}
		})
	}
	for _, propagation := range []string{"slave", "rslave"} {
		t.Run(propagation, func(t *testing.T) {
			source := hostMount(t, unix.MS_SHARED)
			c := start(t, source, propagation)
			mountInside(t, w, c)
			if _, err := os.Stat(filepath.Join(source, "own/file")); err == nil {
				t.Error("what the container mounted is on the host")
			}
		})
	}
	for _, propagation := range []string{"shared", "rshared"} {
		t.Run(propagation, func(t *testing.T) {
			source := hostMount(t, unix.MS_SHARED)
			c := start(t, source, propagation)
			mountInside(t, w, c)
			if _, err := os.Stat(filepath.Join(source, "own/file")); err != nil {
				t.Errorf("what the container mounted is not on the host: %v", err)
			}
			if r := w.exec(c.ID, "umount", "/m/own"); r.Code != 0 {
				t.Fatal(r)
			}
			if _, err := os.Stat(filepath.Join(source, "own/file")); err == nil {
				t.Error("what the container unmounted is still on the host")
			}
			if _, err := w.e.Remove(t.Context(), c.ID, true, false); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(source, "later/file")); err != nil {
				t.Errorf("the end of the container unmounted what is the host's: %v", err)
			}
		})
	}
	t.Run("of a mount that has none", func(t *testing.T) {
		source := hostMount(t, unix.MS_PRIVATE)
		for propagation, kind := range map[string]string{"rshared": "shared", "rslave": "shared or slave"} {
			_, err := w.run(engine.Spec{Command: sh("true"), Remove: true, Mounts: []engine.Mount{
				{Source: source, Target: "/m", Propagation: propagation}}}, "")
			want := "path " + source + " is mounted on " + source + " but it is not a " + kind + " mount"
			if !errors.Is(err, cnm.ErrInvalid) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s", propagation, err, want)
			}
		}
	})
}

// mountInside sees what the host mounted at /m/later, and has the container mount something at /m/own.
func mountInside(t *testing.T, w *world, c engine.Container) {
	t.Helper()
	if !seen(w, c, "/m/later/file") {
		t.Error("what the host mounted later is not seen")
	}
	if r := w.exec(c.ID, "sh", "-ec", "mkdir /m/own; mount -t tmpfs own /m/own; touch /m/own/file"); r.Code != 0 {
		t.Fatal(r)
	}
}

func privileged() engine.Options { return engine.Options{Privileged: true} }

func TestBindsBelow(t *testing.T) {
	w := newWorld(t)
	host := t.TempDir()
	mountAt(t, filepath.Join(host, "below"))
	write := "touch /m/top; touch /m/below/file && echo written; ls /m"
	for name, c := range map[string]struct {
		m    engine.Mount
		want string
	}{
		"with what is below":        {engine.Mount{}, "written\nbelow\ntop\n"},
		"without":                   {engine.Mount{NonRecursive: true}, "written\nbelow\ntop\n"},
		"read-only":                 {engine.Mount{ReadOnly: true}, "below\n"},
		"read-only at the top only": {engine.Mount{ReadOnly: true, ShallowReadOnly: true}, "written\nbelow\n"},
	} {
		t.Run(name, func(t *testing.T) {
			c.m.Source, c.m.Target = host, "/m"
			got := w.mustRun(engine.Spec{Command: sh(write + " 2>/dev/null"), Remove: true,
				Mounts: []engine.Mount{c.m}}, "")
			if got.out != c.want {
				t.Errorf("%q, want %q: %s", got.out, c.want, got.err)
			}
			_, err := os.Stat(filepath.Join(host, "below/file"))
			if wrote := err == nil; wrote != (strings.Contains(c.want, "written") && !c.m.NonRecursive) {
				t.Errorf("written to the file system below: %v", wrote)
			}
			for _, f := range []string{"top", "below/file"} {
				if err := os.Remove(filepath.Join(host, f)); err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Error(err)
				}
			}
		})
	}
	t.Run("a file", func(t *testing.T) {
		file := filepath.Join(host, "one")
		if err := os.WriteFile(file, []byte("of the host"), 0o644); err != nil {
			t.Fatal(err)
		}
		got := w.mustRun(engine.Spec{Command: sh("cat /new/place/one; echo more > /new/place/one"), Remove: true,
			Mounts: []engine.Mount{{Source: file, Target: "/new/place/one", MustExist: true}}}, "")
		if b, err := os.ReadFile(file); got.out != "of the host" || err != nil || string(b) != "more\n" {
			t.Errorf("%+v, %q, %v", got, b, err)
		}
	})
}

func TestTmpfs(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		m    engine.Mount
		do   string
		want string
	}{
		"as it comes": {engine.Mount{Tmpfs: &engine.Tmpfs{}},
			"stat -c %a /t; grep ' /t ' /proc/mounts | cut -d' ' -f3,4",
			"1777\ntmpfs rw,nosuid,nodev,noexec,relatime\n"},
		"size and mode": {engine.Mount{Tmpfs: &engine.Tmpfs{Size: 1 << 20, Mode: 0o750}},
			"stat -c %a /t; df -k /t | tail -1 | tr -s ' ' | cut -d' ' -f2", "750\n1024\n"},
		"options": {engine.Mount{Tmpfs: &engine.Tmpfs{Options: []string{"exec,uid=1000", "mode=700"}}},
			"stat -c '%a %u' /t; cp /bin/busybox /t/echo; /t/echo ran", "700 1000\nran\n"},
		"read-only": {engine.Mount{Tmpfs: &engine.Tmpfs{}, ReadOnly: true}, "touch /t/x 2>/dev/null || echo no",
			"no\n"},
	} {
		t.Run(name, func(t *testing.T) {
			c.m.Target = "/t"
			for _, users := range []string{"", "auto"} {
				got := w.mustRun(engine.Spec{Command: sh(c.do), Remove: true, UserNS: users,
					Mounts: []engine.Mount{c.m}}, "")
				if !strings.HasPrefix(got.out, strings.TrimSuffix(c.want, "\n")) {
					t.Errorf("user namespace %q: %q, want %q: %s", users, got.out, c.want, got.err)
				}
			}
		})
	}
}

func TestMountRefusals(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		m    engine.Mount
		want string
	}{
		"no source": {engine.Mount{Source: filepath.Join(w.dir, "none"), Target: "/m", MustExist: true},
			"bind source path does not exist: " + filepath.Join(w.dir, "none")},
		"propagation": {engine.Mount{Source: "/srv", Target: "/m", Propagation: "wide"}, "bind-propagation"},
		"of a volume": {engine.Mount{Source: "v", Target: "/m", Volume: true, Propagation: "shared"},
			"host path"},
		"volume's": {engine.Mount{Source: "/srv", Target: "/m", NoCopy: true}, "options of a volume"},
		"out of the volume": {engine.Mount{Source: "v", Target: "/m", Volume: true, Subpath: "../w"},
			"volume-subpath"},
		"of nothing": {engine.Mount{Target: "/m", Volume: true, Subpath: "a"}, "nothing in it"},
		"bad name":   {engine.Mount{Source: "a b", Target: "/m", Volume: true}, "volume name"},
		"driver":     {engine.Mount{Source: "v", Target: "/m", Volume: true, Driver: "nfs"}, "driver"},
		"driver option": {engine.Mount{Source: "v", Target: "/m", Volume: true,
			DriverOptions: map[string]string{"typ": "nfs"}}, "opt typ"},
		"lonely option": {engine.Mount{Source: "v", Target: "/m", Volume: true,
			DriverOptions: map[string]string{"type": "nfs"}}, `missing required option: "device"`},
		"tmpfs with a source": {engine.Mount{Source: "/srv", Target: "/m", Tmpfs: &engine.Tmpfs{}}, "no source"},
		"tmpfs of -1":         {engine.Mount{Target: "/m", Tmpfs: &engine.Tmpfs{Size: -1}}, "tmpfs-size"},
		"tmpfs option": {engine.Mount{Target: "/m",
			Tmpfs: &engine.Tmpfs{Options: []string{"size=1m,colour=red"}}}, "colour=red"},
		"over the root": {engine.Mount{Target: "/x/..", Tmpfs: &engine.Tmpfs{}}, "below /"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := w.e.Create(t.Context(), engine.Spec{Image: "busybox", Mounts: []engine.Mount{c.m}})
			if !errors.Is(err, cnm.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
	_, _, err := w.e.Create(t.Context(), engine.Spec{Image: "busybox", UserNS: "auto",
		Mounts: []engine.Mount{{Source: "/srv", Target: "/m", Propagation: "shared"}}})
	if !errors.Is(err, cnm.ErrInvalid) || !strings.Contains(err.Error(), "rslave") {
		t.Errorf("shared with a user namespace: %v", err)
	}
	if left, err := w.vols.List(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("volumes of containers that were not made: %v, %v", left, err)
	}
}

func TestVolumesFrom(t *testing.T) {
	w := newWorld(t)
	host := t.TempDir()
	c := w.create(engine.Spec{Name: "holder", Mounts: []engine.Mount{{Source: "named", Target: "/named", Volume: true},
		{Target: "/own", Volume: true}, {Source: host, Target: "/host", ReadOnly: true},
		{Target: "/tmp", Tmpfs: &engine.Tmpfs{}}}})
	anonymous := w.inspect(c.ID).Spec.Mounts[1].Source
	second := w.create(engine.Spec{Name: "second", Command: sh("touch /named/x /host/y; ls -d /own/*"),
		VolumesFrom: []string{"holder:ro"}, Mounts: []engine.Mount{{Source: "other", Target: "/own", Volume: true}}})
	got := map[string]engine.Mount{}
	for _, m := range w.inspect(second.ID).Spec.Mounts {
		got[m.Target] = m
	}
	if len(got) != 3 || got["/own"].Source != "other" || got["/own"].ReadOnly || !got["/named"].ReadOnly ||
		!got["/host"].ReadOnly || got["/named"].Source != "named" {
		t.Errorf("mounts: %+v", got)
	}
	third := w.create(engine.Spec{Name: "third", VolumesFrom: []string{c.ID[:12]},
		Command: sh("touch /named/x && echo wrote; touch /host/y || echo no")})
	r, err := attach(w, third)
	if err != nil || r.out != "wrote\nno\n" {
		t.Errorf("%+v, %v", r, err)
	}
	// The anonymous volume is the third's, too.
	if _, err := w.e.Remove(t.Context(), c.ID, true, true); err != nil {
		t.Fatal(err)
	}
	if _, err := w.vols.Get(t.Context(), anonymous); err != nil {
		t.Errorf("the volume went while it is in use: %v", err)
	}
	if _, err := w.e.Remove(t.Context(), third.ID, true, true); err != nil {
		t.Fatal(err)
	}
	if _, err := w.vols.Get(t.Context(), anonymous); !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("the volume is left: %v", err)
	}
	for from, want := range map[string]error{"nobody": cnm.ErrNotFound, "second:rx": cnm.ErrInvalid,
		"second:": cnm.ErrInvalid} {
		_, _, err := w.e.Create(t.Context(), engine.Spec{Image: "busybox", VolumesFrom: []string{from}})
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", from, err, want)
		}
	}
}

func attach(w *world, c engine.Container) (result, error) {
	var out, errOut strings.Builder
	st, err := w.e.Attach(w.t.Context(), c.ID, true, engine.Stdio{Stdout: &out, Stderr: &errOut})
	return result{out.String(), errOut.String(), st}, err
}

func TestVolumeOptions(t *testing.T) {
	w := newWorld(t)
	host := t.TempDir()
	mk := func(name string, options map[string]string) {
		t.Helper()
		if _, _, err := w.vols.Ensure(t.Context(), volume.Request{Name: name, Options: options}); err != nil {
			t.Fatal(err)
		}
	}
	mount := func(name string) []engine.Mount {
		return []engine.Mount{{Source: name, Target: "/data", Volume: true}}
	}
	t.Run("a directory of the host", func(t *testing.T) {
		mk("bound", map[string]string{"type": "none", "o": "bind", "device": host})
		for _, users := range []string{"", "auto"} {
			got := w.mustRun(engine.Spec{Command: sh("cat /data/seed; echo x > /data/made"), Remove: true,
				UserNS: users, Mounts: mount("bound")}, "")
			if b, err := os.ReadFile(filepath.Join(host, "made")); err != nil || string(b) != "x\n" {
				t.Errorf("%q, %v", b, err)
			}
			if got.out != "from the image\n" {
				t.Errorf("user namespace %q: an empty one is filled from the image: %+v", users, got)
			}
			for _, f := range []string{"seed", "made"} {
				if err := os.Remove(filepath.Join(host, f)); err != nil {
					t.Error(err)
				}
			}
		}
	})
	t.Run("in memory", func(t *testing.T) {
		mk("memory", map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=1000"})
		got := w.mustRun(engine.Spec{Command: sh("df -k /data | tail -1 | tr -s ' ' | cut -d' ' -f2; ls /data"),
			Remove: true, Mounts: mount("memory")}, "")
		if got.out != "1024\nseed\n" {
			t.Errorf("%+v", got)
		}
	})
	t.Run("one that is not there", func(t *testing.T) {
		mk("none", map[string]string{"type": "none", "o": "bind", "device": host + "/none"})
		if _, err := w.run(engine.Spec{Command: sh("true"), Remove: true, Mounts: mount("none")}, ""); err == nil ||
			!strings.Contains(err.Error(), host+"/none") || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a file system that the kernel has not", func(t *testing.T) {
		mk("strange", map[string]string{"type": "strangefs", "device": "server:/x"})
		if _, err := w.run(engine.Spec{Command: sh("true"), Remove: true, Mounts: mount("strange")}, ""); err == nil ||
			!strings.Contains(err.Error(), `no file system "strangefs"`) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("other options", func(t *testing.T) {
		_, _, err := w.e.Create(t.Context(), engine.Spec{Image: "busybox", Mounts: []engine.Mount{{Source: "bound",
			Target: "/m", Volume: true, DriverOptions: map[string]string{"type": "tmpfs", "device": "x"}}}})
		if !errors.Is(err, cnm.ErrExists) {
			t.Errorf("got %v", err)
		}
	})
}

func TestSubpath(t *testing.T) {
	w := newWorld(t)
	w.mustRun(engine.Spec{Command: sh("mkdir -p /data/a/b /data/dir; echo deep > /data/a/b/file; " +
		"ln -s /dir /data/in; " +
		"ln -s /../../../../etc /data/out; ln -s a/b/file /data/link"), Remove: true,
		Mounts: []engine.Mount{{Source: "v", Target: "/data", Volume: true, NoCopy: true}}}, "")
	sub := func(path string, users string) (result, error) {
		return w.run(engine.Spec{Command: sh("ls /m; cat /m/file; touch /m/touched"), Remove: true, UserNS: users,
			Mounts: []engine.Mount{{Source: "v", Target: "/m", Volume: true, Subpath: path, NoCopy: true}}}, "")
	}
	for _, users := range []string{"", "auto"} {
		if got, err := sub("a/b", users); err != nil || !strings.HasPrefix(got.out, "file\n") ||
			!strings.HasSuffix(got.out, "deep\n") {
			t.Errorf("user namespace %q: %+v, %v", users, got, err)
		}
	}
	if got, err := sub("in", ""); err != nil || got.out != "" {
		t.Errorf("a link in the volume: %+v, %v", got, err)
	}
	for _, path := range []string{"none", "out"} {
		if got, err := sub(path, ""); err == nil || !strings.Contains(err.Error(), `subpath "`+path+`"`) {
			t.Errorf("%s: %+v, %v", path, got, err)
		}
	}
}

// A container swaps a directory of a volume for a link to the host's root while others start with a mount of it.
func TestSubpathThatIsSwapped(t *testing.T) {
	w := newWorld(t)
	secret := filepath.Join(w.dir, "volumes/secret")
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mounts := []engine.Mount{{Source: "v", Target: "/data", Volume: true, NoCopy: true}}
	w.start(engine.Spec{Mounts: mounts, Command: sh("mkdir -p /data/real /data/d; touch /data/real/ok /data/d/ok; " +
		"cd /data; while :; do mv d x; ln -s ../.. d; rm d; ln -s / d; rm d; mv x d; done")})
	ctx, cancel := context.WithTimeout(t.Context(), await.Patience)
	defer cancel()
	shown := 0
	for range 12 {
		if ctx.Err() != nil {
			t.Fatal(ctx.Err())
		}
		got, err := w.run(engine.Spec{Command: sh("ls /m"), Remove: true, Mounts: []engine.Mount{
			{Source: "v", Target: "/m", Volume: true, Subpath: "d", NoCopy: true}}}, "")
		if err != nil {
			continue // it was not there at this moment
		}
		shown++
		for name := range strings.FieldsSeq(got.out) {
			if name != "ok" && name != "real" && name != "d" && name != "x" {
				t.Fatalf("the container sees %q, which is not of the volume", got.out)
			}
		}
	}
	if shown == 0 {
		t.Error("no start went through")
	}
}

func TestVolumesAreMadeWithTheContainer(t *testing.T) {
	w := newWorld(t)
	c := w.create(engine.Spec{Command: sh("ls /data /own"), Mounts: []engine.Mount{
		{Source: "v", Target: "/data", Volume: true, NoCopy: true, Driver: "local",
			Labels: map[string]string{"a": "b"}},
		{Target: "/own", Volume: true}}})
	all, err := w.vols.List(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatalf("%v, %v", all, err)
	}
	if v, err := w.vols.Get(t.Context(), "v"); err != nil || v.Labels["a"] != "b" {
		t.Errorf("%+v, %v", v, err)
	}
	if got, err := attach(w, c); err != nil || got.out != "/data:\n\n/own:\n" {
		t.Errorf("it is not to be filled: %+v, %v", got, err)
	}
	// One that cannot be made leaves none of those that were made for it.
	_, _, err = w.e.Create(t.Context(), engine.Spec{Image: "busybox", Mounts: []engine.Mount{
		{Target: "/own", Volume: true}, {Source: "v", Target: "/data", Volume: true,
			DriverOptions: map[string]string{"type": "tmpfs", "device": "tmpfs"}}}})
	if !errors.Is(err, cnm.ErrExists) {
		t.Errorf("got %v", err)
	}
	if again, err := w.vols.List(t.Context()); err != nil || len(again) != 2 {
		t.Errorf("%v, %v", again, err)
	}
	inUse := w.vols.Remove(t.Context(), "v", w.e.VolumeUsers)
	if !errors.Is(inUse, cnm.ErrInUse) || !strings.Contains(inUse.Error(), c.Spec.Name) {
		t.Errorf("removed while it is in use: %v", inUse)
	}
	if _, err := w.e.Remove(t.Context(), c.ID, true, true); err != nil {
		t.Error(err)
	}
	if again, err := w.vols.List(t.Context()); err != nil || len(again) != 1 || again[0].Name != "v" {
		t.Errorf("left: %v, %v", again, err)
	}
}
