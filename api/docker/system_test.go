package docker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
	"github.com/vethloom/vethloom/api/docker"
	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/api/server/fake"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/volume"
	"github.com/vethloom/vethloom/internal/await"
)

func TestVersionAndInfo(t *testing.T) {
	d := fake.New()
	c, _ := serve(t, d)
	p, err := c.Ping(t.Context(), client.PingOptions{NegotiateAPIVersion: true})
	if err != nil || p.APIVersion != docker.MaxVersion || p.OSType != "linux" || p.SwarmStatus.NodeState != "inactive" {
		t.Errorf("%+v, %v", p, err)
	}
	v, err := c.ServerVersion(t.Context(), client.ServerVersionOptions{})
	if err != nil || v.Version != "1.0" || v.MinAPIVersion != docker.MinVersion {
		t.Errorf("%+v, %v", v, err)
	}
	for _, name := range []string{"one", "two"} {
		if _, _, err := d.Create(t.Context(), engine.Spec{Name: name, Image: "busybox",
			Command: []string{"sleep"}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Start(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	d.SetStatus(server.Status{Root: "/var/lib/vethloom", Notices: []string{"look here"}})
	r, err := c.Info(t.Context(), client.InfoOptions{})
	i := r.Info
	if err != nil || i.ID != "one" || i.Images != 1 || i.NCPU == 0 || i.MemTotal == 0 || i.Name == "" ||
		i.Containers != 2 || i.ContainersRunning != 1 || i.ContainersStopped != 1 || i.Warnings[0] != "look here" ||
		i.Swarm.LocalNodeState != "inactive" || i.DockerRootDir != "/var/lib/vethloom" {
		t.Errorf("%+v, %v", i, err)
	}
}

// answered is what a request is answered with.
func answered(t testing.TB, c *http.Client, method, path string, body io.Reader) (status int, header http.Header,
	text string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://docker"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := c.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer.StatusCode, answer.Header, string(b)
}

func TestPaths(t *testing.T) {
	_, c := serve(t, fake.New())
	const manager, old = "This node is not a swarm manager", "is too old. Minimum supported API version is 1.41"
	for _, want := range []struct {
		method, path string
		status       int
		says         string
	}{
		{"GET", "/_ping", 200, "OK"},
		{"HEAD", "/_ping", 200, ""},
		{"HEAD", "/v1.41/_ping", 200, ""},
		{"GET", "/v1.56/version", 200, `"ApiVersion":"1.56"`},
		{"GET", "/v1.40/version", 400, "client version 1.40 " + old},
		{"GET", "/v1.24/images/json", 400, "client version 1.24 " + old},
		{"GET", "/v0/info", 400, old},
		{"GET", "/v1.57/version", 400, "client version 1.57 is too new. Maximum supported API version is 1.56"},
		{"GET", "/v2.0/version", 400, "is too new"},
		{"GET", "/v1.x/version", 404, "page not found"},
		{"GET", "/v1.44", 404, "page not found"},
		{"GET", "/", 404, "page not found"},
		{"GET", "/nosuch", 404, "page not found"},
		{"GET", "/images/", 404, "page not found"},
		{"GET", "/images", 404, "page not found"},
		{"GET", "/images/busybox", 404, "page not found"},
		{"GET", "/images/../images/json", 404, "page not found"},
		{"GET", "/images//json", 404, "page not found"},
		{"POST", "/version", 404, "page not found"},
		{"GET", "/volumes/nosuch", 404, "there is none"},
		{"GET", "/images/registry.test/a/b/json", 404, "registry.test/a/b"},
		{"GET", "/images/busybox/json", 200, "busybox:latest"},
		{"GET", "/images/busybox%3Alatest/json", 200, "busybox:latest"},
		{"GET", "/nodes", 503, manager},
		{"POST", "/services/create", 503, manager},
		{"GET", "/swarm", 503, manager},
		{"POST", "/swarm/leave", 503, manager},
		{"POST", "/swarm/init", 501, "netd makes and joins no swarm"},
		{"GET", "/plugins", 200, "[]"},
		{"GET", "/plugins/a/b/json", 404, "plugin a/b not found"},
		{"POST", "/plugins/pull", 501, "/run/docker/plugins"},
		{"POST", "/build/prune", 200, `"SpaceReclaimed":0`},
		{"POST", "/session", 501, "BuildKit"},
		{"GET", "/containers/x/checkpoints", 501, "checkpoints"},
		{"GET", "/distribution/a/b/json", 501, "registry"},
		{"GET", "/images/get", 400, "names"},
		{"GET", "/images/busybox/get?platform=linux/arm64", 501, "one platform"},
		{"POST", "/images/load?platform=linux/arm64", 501, "one platform"},
		{"POST", "/images/create", 400, "fromImage"},
		{"POST", "/images/busybox/tag", 400, "repo"},
		{"POST", "/images/busybox/push", 501, "one tag"},
		{"GET", "/networks?filters=[", 400, "no JSON"},
		{"GET", `/networks?filters={"name":3}`, 400, "list"},
		{"GET", `/networks?filters={"a=b":["c"]}`, 400, "no key"},
		{"GET", `/networks?filters={"name":["("]}`, 400, "no regular expression"},
		{"GET", `/networks?filters={"name":{"none":true}}`, 200, `"Name":"none"`},
		{"GET", "/events?since=yesterday", 400, "no time"},
		{"GET", "/events?until=1.2.3", 400, "no time"},
		{"GET", `/events?filters={"type":["container"],"x":["y"]}`, 400, "not a known filter"},
		{"GET", "/system/df?type=hope", 400, "takes space"},
	} {
		status, header, text := answered(t, c, want.method, want.path, nil)
		if status != want.status || !strings.Contains(text, want.says) {
			t.Errorf("%s %s: %d %s", want.method, want.path, status, text)
		}
		if status >= 400 && want.method != "HEAD" && !strings.HasPrefix(text, `{"message":"`) {
			t.Errorf("%s %s: no message: %s", want.method, want.path, text)
		}
		if header.Get("Api-Version") != docker.MaxVersion || header.Get("Ostype") != "linux" ||
			header.Get("Docker-Experimental") != "false" || !strings.HasPrefix(header.Get("Server"), "vethloom/1.0") {
			t.Errorf("%s %s: %v", want.method, want.path, header)
		}
	}
}

func TestStatuses(t *testing.T) {
	d := fake.New()
	_, c := serve(t, d)
	for _, want := range []struct {
		err    error
		status int
	}{
		{cnm.ErrNotFound, 404}, {cnm.ErrExists, 409}, {cnm.ErrInUse, 409}, {cnm.ErrConflict, 409},
		{cnm.ErrForbidden, 403}, {cnm.ErrInvalid, 400}, {cnm.ErrUnavailable, 503}, {cnm.ErrExhausted, 503},
		{&cnm.PortTakenError{Proto: "tcp", Port: 80, Cause: errors.New("x")}, 409}, {errors.ErrUnsupported, 501},
		{&fake.CommandError{Command: "x", Code: 127}, 400}, {errors.New("the disk is broken"), 500},
	} {
		d.Fail("ListNetworks", fmt.Errorf("list: %w", want.err))
		status, _, text := answered(t, c, "GET", "/networks", nil)
		if status != want.status || !strings.Contains(text, `{"message":"list: `) {
			t.Errorf("%v: %d %s", want.err, status, text)
		}
	}
	d.Fail("ListNetworks", errors.New("panic"))
	if status, _, text := answered(t, c, "GET", "/networks", nil); status != 500 ||
		!strings.Contains(text, "a defect") || strings.Contains(text, "as asked") {
		t.Errorf("a panic: %d %s", status, text)
	}
	d.Fail("ListNetworks", nil)
	if status, _, text := answered(t, c, "GET", "/networks", nil); status != 200 {
		t.Errorf("afterwards: %d %s", status, text)
	}
}

func TestDiskUsage(t *testing.T) {
	d := fake.New()
	c, plain := serve(t, d)
	if _, err := d.CreateVolume(t.Context(), volume.Request{Name: "data"}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Create(t.Context(), engine.Spec{Name: "app", Image: "busybox"}); err != nil {
		t.Fatal(err)
	}
	u, err := c.DiskUsage(t.Context(), client.DiskUsageOptions{Verbose: true})
	if err != nil || len(u.Images.Items) != 1 || u.Images.Items[0].Containers != 1 || u.Images.ActiveCount != 1 ||
		u.Images.TotalSize != 4_260_000+12<<20 || u.Images.Reclaimable != 12<<20 || u.Volumes.Reclaimable != 2<<20 ||
		u.Volumes.Items[0].UsageData.Size != 2<<20 || u.Containers.Items[0].SizeRw != 1<<20 ||
		u.Containers.Items[0].Names[0] != "/app" || u.Containers.Reclaimable != 1<<20 {
		t.Errorf("%+v, %v", u, err)
	}
	if text := get(t, plain, "/v1.53/system/df"); strings.Contains(text, "Items") || strings.Contains(text, "Layers") ||
		!strings.Contains(text, `"ImageUsage":{"ActiveCount":1`) {
		t.Errorf("not verbose: %s", text)
	}
	if text := get(t, plain, "/v1.52/system/df"); strings.Contains(text, "Items") ||
		!strings.Contains(text, "Layers") || !strings.Contains(text, `"ImageUsage":{"ActiveCount":1`) {
		t.Errorf("in both forms: %s", text)
	}
	if text := get(t, plain, "/v1.41/system/df"); !strings.Contains(text, `"LayersSize":4260000`) ||
		!strings.Contains(text, `"VirtualSize":4260000`) || !strings.Contains(text, `"BuildCache":[]`) ||
		strings.Contains(text, "Usage\":{\"Active") {
		t.Errorf("for an old client: %s", text)
	}
	if text := get(t, plain, "/v1.42/system/df?type=volume"); strings.Contains(text, "Images") ||
		!strings.Contains(text, `"Name":"data"`) {
		t.Errorf("volumes alone: %s", text)
	}
}

// happened are events of every kind, as the domain has them.
func happened(d *fake.Domain) []server.Event {
	nets, _ := d.ListNetworks(context.Background())
	at := func(n int) time.Time { return fake.Epoch.Add(time.Duration(n) * time.Second) }
	return []server.Event{
		{Time: at(1), Type: "container", Action: "start", ID: "c1", Attributes: map[string]string{"name": "app",
			"image": "busybox", "com.docker.compose.project": "shop"}},
		{Time: at(2), Type: "container", Action: "die", ID: "c1", Attributes: map[string]string{"name": "app",
			"image": "busybox", "exitCode": "3"}},
		{Time: at(2), Type: "container", Action: "exec_start: sh -c date", ID: "c2"},
		{Time: at(3), Type: "endpoint", Action: "connect", ID: "e1", Attributes: map[string]string{"name": "bridge",
			"driver": "bridge", "network": nets[0].ID, "container": "c1"}},
		{Time: at(4), Type: "endpoint", Action: "renumber", ID: "e1"},
		{Time: at(5), Type: "kernel", Action: "repair", ID: "link"},
		{Time: at(6), Type: "volume", Action: "remove", ID: "data"},
		{Time: at(7), Type: "image", Action: "remove", ID: "sha256:1"},
		{Time: at(8), Type: "network", Action: "remove", ID: nets[0].ID,
			Attributes: map[string]string{"name": "bridge", "driver": "bridge"}},
	}
}

func TestEventsOfThePast(t *testing.T) {
	d := fake.New()
	c, _ := serve(t, d)
	d.SetPast(happened(d)...)
	show := func(o client.EventsListOptions) (out []string) {
		t.Helper()
		r := c.Events(t.Context(), o)
		for {
			select {
			case m := <-r.Messages:
				name := m.Actor.Attributes["name"]
				out = append(out, strings.TrimSpace(string(m.Type)+" "+string(m.Action)+" "+name))
			case err := <-r.Err:
				if !errors.Is(err, io.EOF) {
					t.Errorf("%+v: %v", o, err)
				}
				return out
			}
		}
	}
	all := client.EventsListOptions{Since: "1769860800", Until: "1769860900"}
	want := []string{"container start app", "container die app", "container exec_start: sh -c date",
		"network connect bridge", "volume destroy", "image delete", "network destroy bridge"}
	if diff := cmp.Diff(want, show(all)); diff != "" {
		t.Error(diff)
	}
	for filter, want := range map[string][]string{
		"event=die": {"container die app"}, "event=exec_start": {"container exec_start: sh -c date"},
		"event=exec_start: sh -c date": {"container exec_start: sh -c date"}, "event=exec_start: sh": nil,
		"type=volume": {"volume destroy"}, "container=app": {"container start app",
			"container die app"}, "label=com.docker.compose.project=shop": {"container start app"},
		"volume=data": {"volume destroy"}, "network=bridge": {"network connect bridge", "network destroy bridge"},
		"image=busybox": {"container start app", "container die app"}, "daemon=here": want, "scope=swarm": nil,
	} {
		key, value, _ := strings.Cut(filter, "=")
		all.Filters = client.Filters{}.Add(key, value)
		if diff := cmp.Diff(want, show(all)); diff != "" {
			t.Errorf("%s: %s", filter, diff)
		}
	}
	some := client.EventsListOptions{Since: "1769860802.000000000", Until: "1769860806"}
	if diff := cmp.Diff(want[1:5], show(some)); diff != "" {
		t.Error(diff)
	}
}

func TestEvents(t *testing.T) {
	d := fake.New()
	c, _ := serve(t, d)
	ctx, cancel := context.WithCancel(t.Context())
	r := c.Events(ctx, client.EventsListOptions{Filters: client.Filters{}.Add("type", "container")})
	await.True(t, "the events are watched", func() bool { return d.Watchers.Load() == 1 })
	for _, e := range happened(d) {
		d.Emit(e)
	}
	var got []events.Message
	for len(got) < 2 {
		select {
		case m := <-r.Messages:
			got = append(got, m)
		case err := <-r.Err:
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(events.Message{Type: "container", Action: "die", Scope: "local", Time: 1769860802,
		TimeNano: 1769860802000000000, Actor: events.Actor{ID: "c1", Attributes: map[string]string{"name": "app",
			"image": "busybox", "exitCode": "3"}}}, got[1]); diff != "" {
		t.Error(diff)
	}
	cancel()
	await.True(t, "nobody watches", func() bool { return d.Watchers.Load() == 0 })
}

// Clients of older versions read fields that newer ones no longer have.
func TestEventsForOlderClients(t *testing.T) {
	d := fake.New()
	_, plain := serve(t, d)
	d.SetPast(happened(d)[1:5]...)
	const all = "/events?since=1769860800&until=1769860900"
	type old struct{ Status, ID, From, Action string }
	read := func(path string) (out []old) {
		for dec := json.NewDecoder(strings.NewReader(get(t, plain, path))); dec.More(); {
			var one old
			if err := dec.Decode(&one); err != nil {
				t.Fatal(err)
			}
			out = append(out, one)
		}
		return out
	}
	want := []old{{"die", "c1", "busybox", "die"}, {"exec_start: sh -c date", "c2", "", "exec_start: sh -c date"},
		{Action: "connect"}}
	if diff := cmp.Diff(want, read("/v1.51"+all)); diff != "" {
		t.Error(diff)
	}
	for i := range want {
		want[i] = old{Action: want[i].Action}
	}
	if diff := cmp.Diff(want, read("/v1.52"+all)); diff != "" {
		t.Error(diff)
	}
}
