package flagspec_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/flagspec"
)

// reads compares what values are read as, and which are refused, and why.
func reads[T any](t *testing.T, parse func(string) (T, error), good map[string]T, bad map[string]string) {
	t.Helper()
	for value, want := range good {
		got, err := parse(value)
		if err != nil {
			t.Errorf("%q: %v", value, err)
		} else if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", value, diff)
		}
	}
	for value, want := range bad {
		if got, err := parse(value); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is %v, %v, want %s", value, got, err, want)
		}
	}
}

func TestLongMount(t *testing.T) {
	type m = apiv1.Mount
	reads(t, func(v string) (*m, error) { return flagspec.LongMount(v, "/home") }, map[string]*m{
		"type=bind,source=/a/../b,target=/c/": {Source: "/b", Target: "/c", MustExist: true},
		"type=bind,src=x,dst=/c,ro": {Source: "/home/x", Target: "/c", MustExist: true,
			ReadOnly: true},
		"type=bind,src=/x,dst=/c,readonly=false,bind-create-src": {Source: "/x", Target: "/c"},
		"TYPE=bind,src=/x,destination=/c,bind-propagation=rshared,consistency=cached": {Source: "/x", Target: "/c",
			MustExist: true, Propagation: "rshared"},
		"type=bind,src=/x,dst=/c,bind-recursive=disabled": {Source: "/x", Target: "/c", MustExist: true,
			NonRecursive: true},
		"type=bind,src=/x,dst=/c,bind-nonrecursive": {Source: "/x", Target: "/c", MustExist: true, NonRecursive: true},
		"type=bind,src=/x,dst=/c,ro,bind-recursive=writable": {Source: "/x", Target: "/c", MustExist: true,
			ReadOnly: true, ReadOnlyNonRecursive: true},
		"type=bind,src=/x,dst=/c,ro,bind-recursive=readonly": {Source: "/x", Target: "/c", MustExist: true,
			ReadOnly: true},
		`type=bind,"src=/a,b",dst=/c,bind-recursive=enabled`: {Source: "/a,b", Target: "/c", MustExist: true},
		"target=/v":               {Volume: true, Target: "/v"},
		"type=volume,dst=/v":      {Volume: true, Target: "/v"},
		"src=data,dst=/v,ro=true": {Volume: true, Source: "data", Target: "/v", ReadOnly: true},
		"src=d,dst=/v,volume-nocopy,volume-subpath=a/b,volume-driver=local,volume-opt=o=size=1m," +
			"volume-opt=type=tmpfs,volume-label=x=y,volume-label=z": {Volume: true, Source: "d", Target: "/v",
			NoCopy: true, Subpath: "a/b",
			Driver: "local", DriverOptions: map[string]string{"o": "size=1m", "type": "tmpfs"},
			Labels: map[string]string{"x": "y", "z": ""}},
		"type=tmpfs,target=/t": {Target: "/t", Tmpfs: &apiv1.Tmpfs{}},
		"type=tmpfs,target=/t,tmpfs-size=64m,tmpfs-mode=700": {Target: "/t",
			Tmpfs: &apiv1.Tmpfs{Size: 64 << 20, Mode: 0o700}},
	}, map[string]string{
		"":                                                     "cannot be read",
		`type=bind,"src=/a`:                                    "cannot be read",
		"type=bind,src=/a":                                     "the target is missing",
		"type=bind,src=/a,dst=c":                               `"c", is not absolute`,
		"type=bind,src=/a,dst=/c/..":                           "root cannot be mounted over",
		"type=bind,dst=/c":                                     "the source is missing",
		"type=bind,src=,dst=/c":                                `"src" has no value`,
		"type=bind,src,dst=/c":                                 `"src" has no value`,
		"type=bind,src=/a\x00,dst=/c":                          "NUL",
		"type=bind,src=/a,dst=/c,ro=x":                         `ro: "x" is neither true nor false`,
		"type=bind,src=/a,dst=/c,rw=true":                      `unknown key "rw"`,
		"type=bind,src=/a,dst=/c,bind-propagation=x":           `bind-propagation "x"`,
		"type=bind,src=/a,dst=/c,bind-recursive=x":             `bind-recursive "x"`,
		"type=bind,src=/a,dst=/c,bind-recursive=readonly":      "needs readonly",
		"type=bind,src=/a,dst=/c,volume-nocopy":                "is for mounts of type volume",
		"type=volume,src=a,dst=/c,tmpfs-size=1m":               "is for mounts of type tmpfs",
		"type=volume,src=/a,dst=/c":                            "for a path use type=bind",
		"type=tmpfs,src=a,dst=/c":                              "a tmpfs has no source",
		"type=tmpfs,dst=/c,tmpfs-size=x":                       "is not a size",
		"type=tmpfs,dst=/c,tmpfs-mode=9":                       "are no permissions",
		"type=image,src=a,dst=/c":                              "mounts of type image are not there",
		"type=disk,src=a,dst=/c":                               `unknown type "disk"`,
		"type=bind,src=/a,dst=/c,bind-create-src=maybe":        "neither true nor false",
		"type=bind,src=/a,dst=/c,bind-nonrecursive=maybe":      "neither true nor false",
		"type=volume,src=a,dst=/c,volume-nocopy=maybe":         "neither true nor false",
		"type=volume,src=a,dst=/c,volume-opt":                  `"volume-opt" has no value`,
		"type=volume,src=a,dst=/c,somethingelse=1,readonly=no": "unknown key",
	})
}

func TestTmpfs(t *testing.T) {
	type m = apiv1.Mount
	reads(t, flagspec.Tmpfs, map[string]*m{
		"/run":      {Target: "/run", Tmpfs: &apiv1.Tmpfs{}},
		"/run/:":    {Target: "/run", Tmpfs: &apiv1.Tmpfs{}},
		"/r:rw":     {Target: "/r", Tmpfs: &apiv1.Tmpfs{}},
		"/r:ro":     {Target: "/r", ReadOnly: true, Tmpfs: &apiv1.Tmpfs{}},
		"/r:exec":   {Target: "/r", Tmpfs: &apiv1.Tmpfs{Options: []string{"exec"}}},
		"/r:size=2": {Target: "/r", Tmpfs: &apiv1.Tmpfs{Size: 2}},
		"/r:size=50%,mode=1777,uid=5": {Target: "/r",
			Tmpfs: &apiv1.Tmpfs{Mode: 0o1777, Options: []string{"size=50%", "uid=5"}}},
	}, map[string]string{
		"": "the target is missing", "run": "is not absolute", "/": "root cannot be", "/r:size=x": "is not a size",
		"/r:mode=8": "are no permissions", "/r\x00": "NUL",
	})
}

func TestVolumeOptions(t *testing.T) {
	type m = apiv1.Mount
	reads(t, func(v string) (*m, error) { return flagspec.Mount(v, "/home") }, map[string]*m{
		"/a:/b:ro,z,cached":  {Source: "/a", Target: "/b", ReadOnly: true},
		"/a:/b:Z,rslave":     {Source: "/a", Target: "/b", Propagation: "rslave"},
		"data:/b:nocopy,ro":  {Source: "data", Target: "/b", Volume: true, NoCopy: true, ReadOnly: true},
		"data:/b:consistent": {Source: "data", Target: "/b", Volume: true},
	}, map[string]string{
		"/a:/b:nocopy":  `only volumes have the option "nocopy"`,
		"data:/b:slave": `only paths of the host have the option "slave"`,
	})
}

func TestDevices(t *testing.T) {
	type d = apiv1.Device
	reads(t, flagspec.Device, map[string]*d{
		"/dev/fuse":           {Source: "/dev/fuse"},
		"/dev/fuse:rw":        {Source: "/dev/fuse", Permissions: "rw"},
		"/dev/fuse:/dev/x/":   {Source: "/dev/fuse", Target: "/dev/x"},
		"/dev/fuse:/dev/x:rm": {Source: "/dev/fuse", Target: "/dev/x", Permissions: "rm"},
	}, map[string]string{
		"":                  "is not absolute",
		"fuse":              "is not absolute",
		"vendor.com/gpu=0":  "CDI",
		"/dev/fuse:x":       "neither an absolute path nor permissions",
		"/dev/fuse:/x:rr":   "are no permissions",
		"/dev/fuse:/x:":     "are no permissions",
		"/dev/a:/dev/b:c:d": "are no permissions",
	})
	reads(t, flagspec.DeviceRule, map[string]string{"c 10:200 rwm": "c 10:200 rwm", "a *:* m": "a *:* m"},
		map[string]string{"": "use TYPE", "c 1:2": "use TYPE", "x 1:2 r": "use TYPE", "c 1:2 rwmr": "use TYPE"})
	type b = apiv1.BlockDevice
	reads(t, func(v string) (*b, error) { return flagspec.BlockDevice(v, flagspec.Bytes) },
		map[string]*b{"/dev/sda:1m": {Path: "/dev/sda", Value: 1 << 20}},
		map[string]string{"/dev/sda": "use /dev/X:VALUE", "sda:1": "use /dev/X:VALUE", "/dev/sda:x": "is not a size"})
	reads(t, flagspec.Count, map[string]uint64{"0": 0, "12": 12},
		map[string]string{"": "whole number", "-1": "whole number", "1k": "whole number"})
	reads(t, flagspec.Weight, map[string]uint64{"0": 0, "10": 10, "1000": 1000},
		map[string]string{"9": "is not a weight", "1001": "is not a weight", "x": "is not a weight"})
}

func TestRestartUlimitLink(t *testing.T) {
	type p = apiv1.RestartPolicy
	reads(t, flagspec.Restart, map[string]*p{
		"no": {Name: "no"}, "always": {Name: "always"}, "unless-stopped": {Name: "unless-stopped"},
		"on-failure": {Name: "on-failure"}, "on-failure:3": {Name: "on-failure", MaxRetries: 3},
	}, map[string]string{"": "use no, always", "never": "use no, always", "always:3": "only on-failure",
		"on-failure:x": "is not a number", "on-failure:-1": "is not a number", "on-failure:": "is not a number"})
	type u = apiv1.Ulimit
	reads(t, flagspec.Ulimit, map[string]*u{
		"nofile=5": {Name: "nofile", Soft: 5, Hard: 5}, "core=0:-1": {Name: "core", Hard: -1},
	}, map[string]string{"nofile": "use NAME=SOFT", "bogus=1": "invalid ulimit type: bogus", "nofile=2:1": "use NAME",
		"nofile=x": "use NAME"})
	reads(t, flagspec.Link, map[string]string{"db": "db:db", "db:x": "db:x", "/db": "/db:db"},
		map[string]string{"": "use CONTAINER", ":x": "use CONTAINER", "a:": "use CONTAINER", "a:b:c": "use CONTAINER"})
}

func TestSecurity(t *testing.T) {
	missing := errors.New("no such profile")
	read := func(name string) (string, error) {
		if name == "p.json" {
			return "{}", nil
		}
		return "", missing
	}
	reads(t, func(v string) (*apiv1.ContainerSpec, error) {
		s := &apiv1.ContainerSpec{}
		return s, flagspec.Security(s, v, read)
	}, map[string]*apiv1.ContainerSpec{
		"no-new-privileges":       {NoNewPrivileges: true},
		"no-new-privileges:true":  {NoNewPrivileges: true},
		"no-new-privileges=false": {},
		"seccomp=unconfined":      {Seccomp: "unconfined"},
		"seccomp:unconfined":      {Seccomp: "unconfined"},
		"seccomp=builtin":         {},
		"seccomp=p.json":          {Seccomp: "{}"},
		"apparmor=unconfined":     {Apparmor: "unconfined"},
		"systempaths=unconfined":  {Unmasked: true},
		"label=disable":           {},
	}, map[string]string{
		"no-new-privileges=maybe": "neither true nor false", "seccomp=x": "no such profile", "label=user:x": "SELinux",
		"": "use seccomp=FILE", "seccomp=": "use seccomp=FILE", "systempaths=x": "use seccomp=FILE",
		"apparmor": "use seccomp=FILE",
	})
}

func FuzzLongMount(f *testing.F) {
	for _, s := range []string{"type=bind,src=/a,dst=/b,ro", "src=v,dst=/b,volume-opt=o=x", `type=tmpfs,"dst=/a,b"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := flagspec.LongMount(s, "/srv")
		if err != nil {
			return
		}
		if strings.ContainsRune(m.Source+m.Target, 0) || !strings.HasPrefix(m.Target, "/") || m.Target == "/" {
			t.Fatalf("%q: %v", s, m)
		}
		if _, err := proto.Marshal(m); err != nil && strings.ToValidUTF8(s, "") == s {
			t.Fatalf("%q: %v", s, err)
		}
	})
}
