package docker_test

import (
	"bytes"
	"context"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/vethloom/vethloom/api/server/fake"
	"github.com/vethloom/vethloom/internal/await"
)

// busybox is an image that every fake domain has.
const busybox = "busybox:latest"

func create(t *testing.T, c *client.Client, o client.ContainerCreateOptions) string {
	t.Helper()
	if o.Config == nil {
		o.Config = &container.Config{}
	}
	if o.Config.Image == "" {
		o.Config.Image = busybox
	}
	made, err := c.ContainerCreate(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return made.ID
}

func inspect(t *testing.T, c *client.Client, id string) container.InspectResponse {
	t.Helper()
	got, err := c.ContainerInspect(t.Context(), id, client.ContainerInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return got.Container
}

// What a container was asked to be is what an inspection shows.
func TestCreateAndInspectAgree(t *testing.T) {
	c, _ := serve(t, fake.New())
	conf := &container.Config{
		Hostname: "box", Domainname: "example", User: "ann", AttachStdout: true, Tty: true, OpenStdin: true,
		StdinOnce: true, Env: []string{"A=1", "B=x=y"}, Cmd: []string{"-c", "true"}, Entrypoint: []string{"sh"},
		Image: busybox, WorkingDir: "/w", Labels: map[string]string{"a": "b"}, StopSignal: "SIGINT",
		StopTimeout: new(7), ExposedPorts: network.PortSet{network.MustParsePort("53/udp"): {}},
		Healthcheck: &container.HealthConfig{Test: []string{"CMD", "true"}, Interval: time.Second, Retries: 2},
	}
	host := &container.HostConfig{
		Binds: []string{"/src:/dst:ro", "vol:/vol:nocopy", "/a:/b:rslave"}, ContainerIDFile: "/cid",
		LogConfig:   container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "1m"}},
		NetworkMode: "bridge", PortBindings: network.PortMap{
			network.MustParsePort("80/tcp"): {{HostPort: "8080"}},
			network.MustParsePort("81/tcp"): {{HostPort: "8081"}},
			network.MustParsePort("90/udp"): {{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: "9000"}},
			network.MustParsePort("99/tcp"): {{}},
		},
		RestartPolicy: container.RestartPolicy{Name: "on-failure", MaximumRetryCount: 3}, AutoRemove: true,
		Annotations: map[string]string{"x": "y"}, CapAdd: []string{"CAP_NET_ADMIN"}, CapDrop: []string{"CAP_KILL"},
		CgroupnsMode: "host", DNS: []netip.Addr{netip.MustParseAddr("192.0.2.53")}, DNSOptions: []string{"ndots:1"},
		DNSSearch: []string{"example"}, ExtraHosts: []string{"tool:192.0.2.9"}, GroupAdd: []string{"99"},
		IpcMode: "shareable", OomScoreAdj: 10, PidMode: "host", ReadonlyRootfs: true, UTSMode: "host",
		UsernsMode:  "host",
		SecurityOpt: []string{"no-new-privileges", "seccomp=unconfined", "apparmor=mine"}, ShmSize: 1 << 20,
		Sysctls: map[string]string{"net.ipv4.ip_forward": "1"}, Runtime: "other", Init: new(true),
		Tmpfs: map[string]string{"/tmp": "noexec,size=1048576,mode=1777"}, Links: []string{"db:database"},
		Resources: container.Resources{
			CPUShares: 512, Memory: 64 << 20, NanoCPUs: 5e8, CgroupParent: "/mine", BlkioWeight: 300,
			BlkioWeightDevice:   []*blkiodev.WeightDevice{{Path: "/dev/sda", Weight: 200}},
			BlkioDeviceReadBps:  []*blkiodev.ThrottleDevice{{Path: "/dev/sda", Rate: 1}},
			BlkioDeviceWriteBps: []*blkiodev.ThrottleDevice{{Path: "/dev/sda", Rate: 2}},
			BlkioDeviceReadIOps: []*blkiodev.ThrottleDevice{{Path: "/dev/sda", Rate: 3}},
			CPUPeriod:           100000, CPUQuota: 50000, CPURealtimePeriod: 1000, CPURealtimeRuntime: 100,
			CpusetCpus: "0", CpusetMems: "0", DeviceCgroupRules: []string{"c 10:200 rwm"},
			Devices: []container.DeviceMapping{{PathOnHost: "/dev/a", PathInContainer: "/dev/b",
				CgroupPermissions: "r"}},
			MemoryReservation: 32 << 20, MemorySwap: -1, MemorySwappiness: new(int64(60)), OomKillDisable: new(true),
			PidsLimit: new(int64(20)), Ulimits: []*container.Ulimit{{Name: "nofile", Soft: 10, Hard: 20}},
		},
		Mounts: []mount.Mount{
			{Type: mount.TypeBind, Source: "/there", Target: "/here", ReadOnly: true, BindOptions: &mount.BindOptions{
				Propagation: "private", NonRecursive: true, ReadOnlyNonRecursive: true}},
			{Type: mount.TypeVolume, Source: "data", Target: "/data", VolumeOptions: &mount.VolumeOptions{NoCopy: true,
				Labels: map[string]string{"l": "m"}, Subpath: "sub",
				DriverConfig: &mount.Driver{Name: "local", Options: map[string]string{"type": "tmpfs"}}}},
		},
	}
	id := create(t, c, client.ContainerCreateOptions{Config: conf, HostConfig: host, Name: "whole"})
	got := inspect(t, c, id)
	same := cmp.Options{cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b network.Port) bool { return a == b })}
	host.MaskedPaths, host.ReadonlyPaths = got.HostConfig.MaskedPaths, got.HostConfig.ReadonlyPaths
	if diff := cmp.Diff(host, got.HostConfig, same); diff != "" {
		t.Error("HostConfig, asked for and shown: ", diff)
	}
	for _, p := range []string{"80/tcp", "81/tcp", "99/tcp", "90/udp"} {
		conf.ExposedPorts[network.MustParsePort(p)] = struct{}{} // what is published is served
	}
	if diff := cmp.Diff(conf, got.Config, same); diff != "" {
		t.Error("Config, asked for and shown: ", diff)
	}
	if got.Name != "/whole" || got.Path != "sh" || len(got.Args) != 2 || got.State.Status != "created" {
		t.Errorf("name %s, command %s %v, state %s", got.Name, got.Path, got.Args, got.State.Status)
	}
	again := create(t, c, client.ContainerCreateOptions{Config: got.Config, HostConfig: got.HostConfig, Name: "again"})
	if diff := cmp.Diff(got.HostConfig, inspect(t, c, again).HostConfig, same); diff != "" {
		t.Error("HostConfig of a container that was made of an inspection: ", diff)
	}
}

// Docker's own command attaches, waits and starts, in this order, and no output is lost.
func TestAttachWaitStart(t *testing.T) {
	c, _ := serve(t, fake.New())
	id := create(t, c, client.ContainerCreateOptions{Config: &container.Config{Cmd: []string{"echo", "hello"}}})
	a, err := c.ContainerAttach(t.Context(), id, client.ContainerAttachOptions{Stream: true, Stdout: true,
		Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if kind, _ := a.MediaType(); kind != "application/vnd.docker.multiplexed-stream" {
		t.Errorf("the media type is %s", kind)
	}
	waited := c.ContainerWait(t.Context(), id, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	if _, err := c.ContainerStart(t.Context(), id, client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errs, a.Reader); err != nil {
		t.Fatal(err)
	}
	if out.String() != "hello\n" || errs.Len() > 0 {
		t.Errorf("output %q, errors %q", out.String(), errs.String())
	}
	if exit := await.From(t, "the end", waited.Result); exit.StatusCode != 0 || exit.Error != nil {
		t.Errorf("it ended with %d, %v", exit.StatusCode, exit.Error)
	}
}

func TestWaitTellsTheExitCode(t *testing.T) {
	c, _ := serve(t, fake.New())
	id := create(t, c, client.ContainerCreateOptions{Config: &container.Config{Cmd: []string{"exit", "7"}}})
	waited := c.ContainerWait(t.Context(), id, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	if _, err := c.ContainerStart(t.Context(), id, client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	if exit := await.From(t, "the end", waited.Result); exit.StatusCode != 7 {
		t.Errorf("it ended with %d, want 7", exit.StatusCode)
	}
	if got := inspect(t, c, id); got.State.ExitCode != 7 || got.State.Status != "exited" {
		t.Errorf("the state is %+v", got.State)
	}
}

// The end of what a client types is that of the process's input, where it is the only client; its output comes still.
func TestInputEndsAndOutputComes(t *testing.T) {
	c, _ := serve(t, fake.New())
	id := create(t, c, client.ContainerCreateOptions{Config: &container.Config{Cmd: []string{"cat"}, OpenStdin: true,
		StdinOnce: true}})
	a, err := c.ContainerAttach(t.Context(), id, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := c.ContainerStart(t.Context(), id, client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("0123456789abcdef", 1<<14)
	go func() { // ends with the text
		_, _ = io.WriteString(a.Conn, text)
		_ = a.CloseWrite()
	}()
	var out bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, io.Discard, a.Reader); err != nil {
		t.Fatal(err)
	}
	if out.String() != text {
		t.Errorf("%d bytes came back, want %d", out.Len(), len(text))
	}
}

// A client that goes away leaves nothing behind: neither one who waits for a start, nor one whose process runs on.
func TestClientsThatVanish(t *testing.T) {
	d := fake.New()
	c, _ := serve(t, d)
	waiting := create(t, c, client.ContainerCreateOptions{Config: &container.Config{Cmd: []string{"cat"},
		OpenStdin: true}})
	all := client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true}
	a, err := c.ContainerAttach(t.Context(), waiting, all)
	if err != nil {
		t.Fatal(err)
	}
	await.Value(t, "clients that wait", 1, func() int32 { return d.Waiters.Load() })
	a.Close()
	await.Value(t, "clients that wait", 0, func() int32 { return d.Waiters.Load() })

	running := create(t, c, client.ContainerCreateOptions{Name: "runs", Config: &container.Config{
		Cmd: []string{"sleep"}, OpenStdin: true}})
	if _, err := c.ContainerStart(t.Context(), running, client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	if a, err = c.ContainerAttach(t.Context(), running, all); err != nil {
		t.Fatal(err)
	}
	await.Value(t, "clients that wait", 1, func() int32 { return d.Waiters.Load() })
	if _, err := a.Conn.Write(make([]byte, 4<<10)); err != nil { // that the process never reads
		t.Fatal(err)
	}
	a.Close()
	await.Value(t, "clients that wait", 0, func() int32 { return d.Waiters.Load() })

	ctx, cancel := context.WithCancel(t.Context())
	waited := c.ContainerWait(ctx, running, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	await.Value(t, "clients that wait", 1, func() int32 { return d.Waiters.Load() })
	cancel()
	if err := await.From(t, "the end of the wait", waited.Error); err == nil {
		t.Error("a wait that was given up has no error")
	}
	await.Value(t, "clients that wait", 0, func() int32 { return d.Waiters.Load() })
	if got := inspect(t, c, running); !got.State.Running {
		t.Errorf("the state is %+v, want one that runs", got.State)
	}
}

func TestLogs(t *testing.T) {
	c, _ := serve(t, fake.New())
	for _, x := range []struct {
		cmd       []string
		o         client.ContainerLogsOptions
		out, errs string
	}{
		{[]string{"echo", "a\nb"}, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true}, "a\nb\n", ""},
		{[]string{"warn", "w"}, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true}, "", "w\n"},
		{[]string{"warn", "w"}, client.ContainerLogsOptions{ShowStdout: true}, "", ""},
		{[]string{"echo", "a\nb"}, client.ContainerLogsOptions{ShowStdout: true, Tail: "1"}, "b\n", ""},
		{[]string{"echo", "a"}, client.ContainerLogsOptions{ShowStdout: true, Timestamps: true},
			"2026-01-31T12:00:00.000000000Z a\n", ""},
		{[]string{"echo", "a"}, client.ContainerLogsOptions{ShowStdout: true, Follow: true}, "a\n", ""},
	} {
		id := create(t, c, client.ContainerCreateOptions{Config: &container.Config{Cmd: x.cmd}})
		if _, err := c.ContainerStart(t.Context(), id, client.ContainerStartOptions{}); err != nil {
			t.Fatal(err)
		}
		await.From(t, "the end", c.ContainerWait(t.Context(), id, client.ContainerWaitOptions{}).Result)
		logs, err := c.ContainerLogs(t.Context(), id, x.o)
		if err != nil {
			t.Fatal(err)
		}
		var out, errs bytes.Buffer
		if _, err := stdcopy.StdCopy(&out, &errs, logs); err != nil {
			t.Error(err)
		}
		if out.String() != x.out || errs.String() != x.errs {
			t.Errorf("%v %+v: %q and %q, want %q and %q", x.cmd, x.o, out.String(), errs.String(), x.out, x.errs)
		}
		logs.Close()
		if _, err := c.ContainerRemove(t.Context(), id, client.ContainerRemoveOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestExec(t *testing.T) {
	d := fake.New()
	c, _ := serve(t, d)
	id := create(t, c, client.ContainerCreateOptions{Config: &container.Config{Cmd: []string{"sleep"}}})
	if _, err := c.ExecCreate(t.Context(), id, client.ExecCreateOptions{Cmd: []string{"echo"}}); err == nil ||
		!strings.Contains(err.Error(), "is not running") {
		t.Errorf("a command in a container that does not run: %v", err)
	}
	if _, err := c.ContainerStart(t.Context(), id, client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		cmd  []string
		out  string
		code int
	}{
		{[]string{"echo", "hi"}, "hi\n", 0},
		{[]string{"exit", "3"}, "", 3},
		{[]string{"nosuch"}, "executable file not found", 127},
	} {
		made, err := c.ExecCreate(t.Context(), id, client.ExecCreateOptions{Cmd: x.cmd, AttachStdout: true,
			AttachStderr: true})
		if err != nil {
			t.Fatal(err)
		}
		a, err := c.ExecAttach(t.Context(), made.ID, client.ExecAttachOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if _, err := stdcopy.StdCopy(&out, &out, a.Reader); err != nil {
			t.Error(err)
		}
		a.Close()
		if !strings.Contains(out.String(), x.out) {
			t.Errorf("%v says %q, want %q", x.cmd, out.String(), x.out)
		}
		got, err := c.ExecInspect(t.Context(), made.ID, client.ExecInspectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got.Running || got.ExitCode != x.code || got.ContainerID != id {
			t.Errorf("%v: %+v, want exit code %d", x.cmd, got, x.code)
		}
		if _, err := c.ExecAttach(t.Context(), made.ID, client.ExecAttachOptions{}); err == nil {
			t.Errorf("%v runs a second time", x.cmd)
		}
	}
	if _, err := c.ExecInspect(t.Context(), "nosuch", client.ExecInspectOptions{}); err == nil ||
		!strings.Contains(err.Error(), "No such exec instance") {
		t.Errorf("a command that there is not: %v", err)
	}
}
