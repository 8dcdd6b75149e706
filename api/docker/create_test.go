package docker_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/vethloom/vethloom/api/server/fake"
	"github.com/vethloom/vethloom/engine"
)

// post sends a body that a client of Docker would not, and returns the answer.
func post(t testing.TB, c *http.Client, path, body string) (status int, answer string) {
	t.Helper()
	r, err := c.Post("http://docker"+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(text)
}

// What is asked for in ways that older clients know, or that are short for something.
func TestCreateReads(t *testing.T) {
	d := fake.New()
	_, c := serve(t, d)
	for _, x := range []struct {
		body string
		want func(engine.Spec) bool
	}{
		{`{"Image":"busybox","Cmd":"true"}`, func(s engine.Spec) bool { return s.Command[0] == "true" }},
		{`{"Image":"busybox","Entrypoint":""}`, func(s engine.Spec) bool { return s.Entrypoint[0] == "" }},
		{`{"Image":"busybox","MacAddress":"02:42:00:00:00:05"}`,
			func(s engine.Spec) bool { return s.Networks[0].MAC.String() == "02:42:00:00:00:05" }},
		{`{"Image":"busybox","NetworkDisabled":true}`,
			func(s engine.Spec) bool { return s.Networks[0].Network == "none" }},
		{`{"Image":"busybox","HostConfig":{"NetworkMode":"default"}}`,
			func(s engine.Spec) bool { return len(s.Networks) == 1 && s.Networks[0].Network == "bridge" }},
		{`{"Image":"busybox","NetworkingConfig":{"EndpointsConfig":{"host":null}}}`,
			func(s engine.Spec) bool { return len(s.Networks) == 1 && s.Networks[0].Network == "host" }},
		{`{"Image":"busybox","HostConfig":{"NetworkMode":"host"},"NetworkingConfig":{"EndpointsConfig":{"bridge":{
			"IPAMConfig":{"IPv4Address":"172.17.0.9"},"Aliases":["a"],"GwPriority":5,
			"MacAddress":"02:42:00:00:00:06"}}}}`,
			func(s engine.Spec) bool {
				b := s.Networks[1]
				return s.Networks[0].Network == "host" && b.Network == "bridge" && b.GwPriority == 5 &&
					b.Aliases[0] == "a" && b.Addrs[0].String() == "172.17.0.9" && b.MAC.String() == "02:42:00:00:00:06"
			}},
		{`{"Image":"busybox","HostConfig":{"PortBindings":{"8000-8002/udp":[{"HostPort":"9000-9002"}],"7/tcp":null}}}`,
			func(s engine.Spec) bool { return len(s.Ports) == 1 && s.Ports[0].String() == "9000-9002:8000-8002/udp" }},
		{`{"Image":"busybox","HostConfig":{"PortBindings":{"81":[{"HostIp":"::1","HostPort":"91"}],
			"80/TCP":[{"HostIp":"::1","HostPort":"90"}]}}}`,
			func(s engine.Spec) bool { return len(s.Ports) == 1 && s.Ports[0].String() == "[::1]:90-91:80-81/tcp" }},
		{`{"Image":"busybox","Volumes":{"/a":{},"/b":{}},"HostConfig":{"Binds":["x:/a/"]}}`,
			func(s engine.Spec) bool { return len(s.Mounts) == 2 && s.Mounts[0].Source == "x" }},
		{`{"Image":"busybox","HostConfig":{"Binds":["/only"],"VolumeDriver":"local"}}`,
			func(s engine.Spec) bool { return s.Mounts[0].Volume && s.Mounts[0].Driver == "local" }},
		{`{"Image":"busybox","HostConfig":{"SecurityOpt":["seccomp:unconfined",
			"no-new-privileges:true","label=disable"]}}`,
			func(s engine.Spec) bool { return s.Seccomp == "unconfined" && s.NoNewPrivs }},
		{`{"Image":"busybox","HostConfig":{"SecurityOpt":["seccomp={\"a\":1}"]}}`,
			func(s engine.Spec) bool { return s.Seccomp == `{"a":1}` }},
		{`{"Image":"busybox","HostConfig":{"MaskedPaths":[],"ReadonlyPaths":[]}}`,
			func(s engine.Spec) bool { return s.Unmasked }},
		{`{"Image":"busybox","HostConfig":{"MemorySwappiness":-1,"Ulimits":[null],"BlkioWeightDevice":[null],
			"BlkioDeviceReadBps":[null]}}`, func(s engine.Spec) bool { return s.MemorySwappiness == nil }},
		{`{"Image":"busybox","StopTimeout":0}`, func(s engine.Spec) bool { return s.StopTimeout == 1 }},
		{`{"Image":"busybox","HostConfig":{"Tmpfs":{"/t":"ro,size=64m,uid=5"}}}`, func(s engine.Spec) bool {
			m := s.Mounts[0]
			return m.ReadOnly && m.Tmpfs.Size == 64<<20 && m.Tmpfs.Options[0] == "uid=5"
		}},
	} {
		status, answer := post(t, c, "/v1.41/containers/create?name=one", x.body)
		if status != http.StatusCreated || !strings.Contains(answer, `"Warnings":[`) {
			t.Errorf("%s: %d %s", x.body, status, answer)
			continue
		}
		v, err := d.Inspect(t.Context(), "one")
		if err != nil {
			t.Fatal(err)
		}
		if !x.want(v.Spec) {
			t.Errorf("%s became %+v", x.body, v.Spec)
		}
		if _, err := d.Remove(t.Context(), "one", true, true); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCreateRefuses(t *testing.T) {
	_, c := serve(t, fake.New())
	for _, x := range []struct {
		body   string
		status int
		words  string
	}{
		{`{}`, 400, "Config cannot be empty"},
		{`{"Image":"nosuch"}`, 404, "No such image: nosuch:latest"},
		{`{"Image":"registry:5000/nosuch"}`, 404, "No such image: registry:5000/nosuch:latest"},
		{`{"Image":"nosuch:1"}`, 404, "No such image: nosuch:1\""},
		{`{"Image":"busybox","HostConfig":{"NetworkMode":"nosuch"}}`, 400, "nosuch"},
		{`{"Image":"busybox","HostConfig":{"DeviceRequests":[{"Driver":"nvidia"}]}}`, 501, "nvidia"},
		{`{"Image":"busybox","HostConfig":{"Cgroup":"container:x"}}`, 501, "Cgroup"},
		{`{"Image":"busybox","HostConfig":{"StorageOpt":{"size":"1G"}}}`, 501, "StorageOpt"},
		{`{"Image":"busybox","HostConfig":{"Umask":18}}`, 501, "Umask"},
		{`{"Image":"busybox","HostConfig":{"Isolation":"hyperv"}}`, 501, "Isolation"},
		{`{"Image":"busybox","HostConfig":{"SecurityOpt":["bogus=1"]}}`, 400, "bogus=1"},
		{`{"Image":"busybox","HostConfig":{"MaskedPaths":["/proc/x"]}}`, 501, "/proc/x"},
		{`{"Image":"busybox","HostConfig":{"PortBindings":{"0/tcp":[{}]}}}`, 400, "not a port"},
		{`{"Image":"busybox","HostConfig":{"PortBindings":{"80/icmp":[{}]}}}`, 400, "icmp"},
		{`{"Image":"busybox","HostConfig":{"PortBindings":{"80":[{"HostPort":"70000"}]}}}`, 400, "70000"},
		{`{"Image":"busybox","HostConfig":{"PortBindings":{"80":[{"HostPort":"1-5"}]}}}`, 501, "1-5"},
		{`{"Image":"busybox","HostConfig":{"PortBindings":{"80":[{"HostIp":"x"}]}}}`, 400, "HostIp"},
		{`{"Image":"busybox","HostConfig":{"Binds":["a:/b:c:d"]}}`, 400, "too many colons"},
		{`{"Image":"busybox","HostConfig":{"Binds":["./a:/b"]}}`, 400, "neither an absolute path"},
		{`{"Image":"busybox","HostConfig":{"Binds":["a:/b:bogus"]}}`, 400, "bogus"},
		{`{"Image":"busybox","HostConfig":{"Mounts":[{"Type":"image","Source":"x","Target":"/x"}]}}`, 501, "image"},
		{`{"Image":"busybox","HostConfig":{"Mounts":[{"Type":"bogus","Target":"/x"}]}}`, 400, "bogus"},
		{`{"Image":"busybox","HostConfig":{"Mounts":[{"Type":"bind","Source":"x","Target":"/x"}]}}`, 400, "absolute"},
		{`{"Image":"busybox","HostConfig":{"Tmpfs":{"/t":"size=many"}}}`, 400, "size=many"},
		{`{"Image":"busybox","MacAddress":"zz"}`, 400, "MacAddress"},
		{`{"Image":"busybox","ExposedPorts":{"1-60000/tcp":{}}}`, 400, "ExposedPorts"},
		{`{"Image":5}`, 400, "body"},
		{`[`, 400, "body"},
	} {
		status, answer := post(t, c, "/containers/create", x.body)
		if status != x.status || !strings.Contains(answer, x.words) {
			t.Errorf("%s: %d %s, want %d and %q", x.body, status, answer, x.status, x.words)
		}
	}
}

// Whatever is asked for, it is answered, and what was made can be shown.
func FuzzCreate(f *testing.F) {
	for _, s := range []string{
		`{"Image":"busybox","HostConfig":{"PortBindings":{"1-200/tcp":[{"HostPort":"1-200"},{}]}}}`,
		`{"Image":"busybox","HostConfig":{"Binds":["/a:/b:ro"],"Tmpfs":{"/x":"size=1"},"Mounts":[{"Type":"tmpfs"}]}}`,
		`{"Image":"busybox","NetworkingConfig":{"EndpointsConfig":{"bridge":{"IPAMConfig":{},"Links":["a:b"]}}}}`,
		`{"Image":"busybox","StopTimeout":-9223372036854775808,"Healthcheck":{"Test":null}}`,
		`{"Image":"busybox","HostConfig":{"SecurityOpt":["=",":",""],"Ulimits":[null],"Devices":[{}]}}`,
	} {
		f.Add(s)
	}
	d := fake.New()
	_, c := serve(f, d)
	f.Fuzz(func(t *testing.T, body string) {
		status, answer := post(t, c, "/containers/create?name=one", body)
		if status >= 500 && status != http.StatusNotImplemented {
			t.Errorf("%q: %d %s", body, status, answer)
		}
		if status != http.StatusCreated {
			return
		}
		for _, path := range []string{"/containers/one/json", "/containers/json?all=1"} {
			r, err := c.Get("http://docker" + path)
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(r.Body)
			r.Body.Close()
			if err != nil || r.StatusCode != http.StatusOK || !json.Valid(bytes.TrimSpace(text)) {
				t.Errorf("%q: %s: %d %s %v", body, path, r.StatusCode, text, err)
			}
		}
		var shown container.InspectResponse
		r, err := c.Get("http://docker/containers/one/json")
		if err != nil {
			t.Fatal(err)
		}
		if err := json.NewDecoder(r.Body).Decode(&shown); err != nil {
			t.Errorf("%q: %v", body, err)
		}
		r.Body.Close()
		if _, err := d.Remove(t.Context(), "one", true, true); err != nil {
			t.Fatal(err)
		}
	})
}
