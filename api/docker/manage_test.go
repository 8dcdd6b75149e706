package docker_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/vethloom/vethloom/api/server/fake"
	"github.com/vethloom/vethloom/internal/await"
)

func TestListFilters(t *testing.T) {
	c, _ := serve(t, fake.New())
	first := create(t, c, client.ContainerCreateOptions{Name: "first", Config: &container.Config{
		Cmd: []string{"exit", "3"}, Labels: map[string]string{"a": "b"}}})
	create(t, c, client.ContainerCreateOptions{Name: "second", HostConfig: &container.HostConfig{
		Binds: []string{"vol:/v"}, PortBindings: network.PortMap{
			network.MustParsePort("80/tcp"): {{HostPort: "8080"}}}}})
	create(t, c, client.ContainerCreateOptions{Name: "third", Config: &container.Config{Cmd: []string{"sleep", "a b"},
		ExposedPorts: network.PortSet{network.MustParsePort("53/udp"): {}}}})
	for _, id := range []string{"first", "third"} {
		if _, err := c.ContainerStart(t.Context(), id, client.ContainerStartOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	await.From(t, "the end", c.ContainerWait(t.Context(), first, client.ContainerWaitOptions{}).Result)
	for _, x := range []struct {
		o    client.ContainerListOptions
		want string
	}{
		{client.ContainerListOptions{}, "third"},
		{client.ContainerListOptions{All: true}, "third second first"},
		{client.ContainerListOptions{Limit: 2}, "third second"},
		{client.ContainerListOptions{Filters: client.Filters{}.Add("status", "exited")}, "first"},
		{client.ContainerListOptions{Filters: client.Filters{}.Add("exited", "3")}, "first"},
		{client.ContainerListOptions{Filters: client.Filters{}.Add("exited", "0")}, ""},
		{client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("label", "a=b")}, "first"},
		{client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("name", "ir")}, "third first"},
		{client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("name", "^/first$")}, "first"},
		{client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("id", first[:8])}, "first"},
		{client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("before", "third")}, "second first"},
		{client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("since", "first")}, "third second"},
		{client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("since", "first").Add("before", "third")},
			"second"},
		{client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("volume", "vol")}, "second"},
		{client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("volume", "/v")}, "second"},
		{client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("publish", "80")}, "second"},
		{client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("publish", "79-81/tcp")}, "second"},
		{client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("expose", "53/udp")}, "third"},
		{client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("ancestor", "busybox")},
			"third second first"},
		{client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("ancestor", "nosuch")}, ""},
		{client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("network", "nosuch")}, ""},
		{client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("health", "healthy")}, ""},
		{client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("is-task", "true")}, ""},
	} {
		got, err := c.ContainerList(t.Context(), x.o)
		if err != nil {
			t.Errorf("%+v: %v", x.o, err)
			continue
		}
		var names []string
		for _, one := range got.Items {
			names = append(names, strings.TrimPrefix(one.Names[0], "/"))
		}
		if have := strings.Join(names, " "); have != x.want {
			t.Errorf("%+v: %q, want %q", x.o, have, x.want)
		}
	}
	for _, f := range []client.Filters{client.Filters{}.Add("nosuch", "1"), client.Filters{}.Add("status", "x"),
		client.Filters{}.Add("name", "("), client.Filters{}.Add("exited", "x"),
		client.Filters{}.Add("before", "nosuch")} {
		if _, err := c.ContainerList(t.Context(), client.ContainerListOptions{Filters: f}); err == nil {
			t.Errorf("the filters %v are taken", f)
		}
	}
	got, err := c.ContainerList(t.Context(), client.ContainerListOptions{Size: true})
	if err != nil {
		t.Fatal(err)
	}
	one := got.Items[0]
	if one.Command != "sleep 'a b'" || one.State != "running" || !strings.HasPrefix(one.Status, "Up ") ||
		one.SizeRw != 4096 || one.NetworkSettings.Networks["bridge"] == nil || len(one.Ports) != 1 ||
		one.Ports[0].PrivatePort != 53 {
		t.Errorf("it is shown as %+v", one)
	}
}

func TestStats(t *testing.T) {
	c, _ := serve(t, fake.New())
	id := create(t, c, client.ContainerCreateOptions{Name: "web", Config: &container.Config{Cmd: []string{"sleep"}}})
	if _, err := c.ContainerStart(t.Context(), id, client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, o := range []client.ContainerStatsOptions{{Stream: true}, {IncludePreviousSample: true}, {}} {
		got, err := c.ContainerStats(t.Context(), id, o)
		if err != nil {
			t.Fatal(err)
		}
		read := json.NewDecoder(got.Body)
		var s container.StatsResponse
		if err := read.Decode(&s); err != nil {
			t.Fatal(err)
		}
		if o.Stream { // what was before comes with the second
			if err := read.Decode(&s); err != nil {
				t.Fatal(err)
			}
		}
		if s.Name != "/web" || s.ID != id || s.CPUStats.CPUUsage.TotalUsage != 5e8 || s.MemoryStats.Usage != 10<<20 ||
			s.Networks["eth0"].RxBytes != 1500 || s.BlkioStats.IoServiceBytesRecursive[0].Value != 4096 ||
			s.PidsStats.Current != 3 || s.CPUStats.OnlineCPUs != 2 {
			t.Errorf("%+v: %+v", o, s)
		}
		if had := s.PreCPUStats.SystemUsage != 0; had != (o.Stream || o.IncludePreviousSample) {
			t.Errorf("%+v: what was before is %+v", o, s.PreCPUStats)
		}
		got.Body.Close()
	}
}

func TestFiles(t *testing.T) {
	c, _ := serve(t, fake.New())
	id := create(t, c, client.ContainerCreateOptions{})
	st, err := c.ContainerStatPath(t.Context(), id, client.ContainerStatPathOptions{Path: "/etc/f"})
	if err != nil || st.Stat.Name != "f" || st.Stat.Size != 5 {
		t.Errorf("stat: %+v, %v", st, err)
	}
	from, err := c.CopyFromContainer(t.Context(), id, client.CopyFromContainerOptions{SourcePath: "/etc/f"})
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(from.Content); err != nil || string(text) != "a tar of /etc/f" || from.Stat.Name != "f" {
		t.Errorf("copy out: %q, %+v, %v", text, from.Stat, err)
	}
	from.Content.Close()
	if _, err := c.CopyToContainer(t.Context(), id, client.CopyToContainerOptions{DestinationPath: "/etc",
		Content: io.LimitReader(zeros{}, 20<<20)}); err != nil {
		t.Errorf("copy in: %v", err)
	}
	if _, err := c.ContainerStatPath(t.Context(), "nosuch", client.ContainerStatPathOptions{Path: "/"}); err == nil {
		t.Error("a container that there is not has files")
	}
	if _, err := c.ContainerDiff(t.Context(), id, client.ContainerDiffOptions{}); err != nil {
		t.Errorf("diff: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

func TestLife(t *testing.T) {
	c, plain := serve(t, fake.New())
	id := create(t, c, client.ContainerCreateOptions{Name: "one", Config: &container.Config{Cmd: []string{"sleep"}}})
	for _, x := range []struct {
		path, body string
		status     int
	}{
		{"/stop", "", 304}, {"/start", "", 204}, {"/start", "", 304}, {"/pause", "", 204},
		{"/attach", "", 409}, {"/exec", `{"Cmd":["true"]}`, 409}, {"/unpause", "", 204}, {"/exec", `{}`, 400},
		{"/rename?name=/two", "", 204}, {"/rename", "", 400}, {"/resize?h=1&w=2", "", 200},
		{"/resize?h=x&w=2", "", 400},
		{"/update", `{"Memory":67108864,"RestartPolicy":{"Name":"always"}}`, 200}, {"/wait?condition=x", "", 400},
		{"/start?checkpoint=x", "", 501}, {"/copy", `{}`, 404}, {"/stop?t=x", "", 400}, {"/stop?t=0", "", 204},
		{"/wait", "", 200}, {"/restart", "", 204}, {"/kill?signal=TERM", "", 204},
		{"/wait", "", 200}, {"/stop", "", 304},
	} {
		if status, answer := post(t, plain, "/containers/"+id+x.path, x.body); status != x.status {
			t.Errorf("%s: %d %s, want %d", x.path, status, answer, x.status)
		}
	}
	got := inspect(t, c, "two")
	if got.HostConfig.Memory != 64<<20 || got.HostConfig.RestartPolicy.Name != "always" {
		t.Errorf("after an update: %+v", got.HostConfig)
	}
	if status, answer := post(t, plain, "/containers/nosuch/start", ""); status != 404 ||
		!strings.Contains(answer, "No such container: nosuch") {
		t.Errorf("one that there is not: %d %s", status, answer)
	}
	top, err := c.ContainerTop(t.Context(), "two", client.ContainerTopOptions{})
	if err != nil || !slices.Equal(top.Titles, []string{"UID", "PID", "CMD"}) {
		t.Errorf("top: %+v, %v", top, err)
	}
	pruned, err := c.ContainerPrune(t.Context(), client.ContainerPruneOptions{})
	if err != nil || len(pruned.Report.ContainersDeleted) != 1 || pruned.Report.SpaceReclaimed == 0 {
		t.Errorf("prune: %+v, %v", pruned, err)
	}
}

// A command that is left by its client runs on, and its end is known.
func TestExecOutlivesItsClient(t *testing.T) {
	c, _ := serve(t, fake.New())
	id := create(t, c, client.ContainerCreateOptions{Config: &container.Config{Cmd: []string{"sleep"}}})
	if _, err := c.ContainerStart(t.Context(), id, client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	made, err := c.ExecCreate(t.Context(), id, client.ExecCreateOptions{Cmd: []string{"cat"}, AttachStdin: true,
		AttachStdout: true, TTY: true, DetachKeys: "ctrl-x,q"})
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.ExecAttach(t.Context(), made.ID, client.ExecAttachOptions{TTY: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(a.Conn, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(a.Reader).ReadString('\n'); err != nil || line != "hello\n" {
		t.Errorf("it says %q, %v", line, err)
	}
	if ids := inspect(t, c, id).ExecIDs; len(ids) != 1 || ids[0] != made.ID {
		t.Errorf("the commands that run are %v, want %s", ids, made.ID)
	}
	if _, err := io.WriteString(a.Conn, "\x18q"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(a.Reader); err != nil {
		t.Errorf("after the keys: %v", err)
	}
	a.Close()
	got, err := c.ExecInspect(t.Context(), made.ID, client.ExecInspectOptions{})
	if err != nil || !got.Running {
		t.Errorf("after its client has left, it is %+v, %v", got, err)
	}
}

// Clients that speak half of HTTP, or nothing more after it, keep nothing.
func TestStreamsThatNobodyReads(t *testing.T) {
	d := fake.New()
	c, plain := serve(t, d)
	id := create(t, c, client.ContainerCreateOptions{Config: &container.Config{Cmd: []string{"sleep"}}})
	if _, err := c.ContainerStart(t.Context(), id, client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/stats", "/logs?follow=1&stdout=1"} {
		r, err := plain.Get("http://docker/containers/" + id + path)
		if err != nil {
			t.Fatal(err)
		}
		if r.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, r.Status)
		}
		r.Body.Close()
	}
	await.Value(t, "clients that wait", 0, func() int32 { return d.Waiters.Load() })
}
