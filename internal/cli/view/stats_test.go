package view_test

import (
	"strings"
	"testing"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/view"
)

func TestStats(t *testing.T) {
	before := &apiv1.ContainerStats{CpuTotal: 1e9, HostCpu: 100e9}
	now := &apiv1.ContainerStats{Id: "cc", Name: "web", CpuTotal: 2e9, HostCpu: 104e9, Cpus: 4, Memory: 100, Pids: 2,
		MemoryLimit: 400, MemoryStats: map[string]uint64{"inactive_file": 40, "total_inactive_file": 60},
		Interfaces: []*apiv1.InterfaceStats{{Interface: "eth1", Network: "front", RxBytes: 1000, TxBytes: 1},
			{Interface: "eth0", Network: "back", RxBytes: 5, TxBytes: 2000}}}
	s := view.StatsOf(now, before)
	if s.CPU != 100 || s.Memory != 40 || s.MemoryPercent != 10 || s.Rx != 1005 || s.Tx != 2001 || !s.Running {
		t.Errorf("stats %+v", s)
	}
	if got := strings.Join(s.Traffic(), "|"); got != "back (eth0) 5B / 2kB|front (eth1) 1kB / 1B" {
		t.Errorf("traffic %s", got)
	}
	now.MemoryStats = map[string]uint64{"inactive_file": 101}
	if s := view.StatsOf(now, nil); s.CPU != 0 || s.Memory != 0 {
		t.Errorf("without a reading before, and with more files than memory: %+v", s)
	}
	if s := view.StatsOf(before, now); s.CPU != 0 {
		t.Errorf("a container that began anew: %+v", s)
	}
	if s := view.StatsOf(&apiv1.ContainerStats{Name: "idle"}, before); s.Running || s.MemoryPercent != 0 {
		t.Errorf("one that does not run: %+v", s)
	}
	for n, want := range map[uint64]string{0: "0B", 1023: "1023B", 10 << 20: "10MiB", 3 << 29: "1.5GiB"} {
		if got := view.BinarySize(n); got != want {
			t.Errorf("%d bytes are %s, want %s", n, got, want)
		}
	}
	if got := view.Percent(12.345); got != "12.35%" && got != "12.34%" {
		t.Errorf("percent %s", got)
	}
}

func TestContainerStates(t *testing.T) {
	c := container()
	c.Status, c.RestartCount, c.ExecIds = "restarting", 4, []string{"e"}
	c.Health = &apiv1.Health{Status: "unhealthy", FailingStreak: 3,
		Log: []*apiv1.HealthProbe{{Start: created, ExitCode: 1, Output: "no"}}}
	c.Spec.Mounts = append(c.Spec.Mounts, &apiv1.Mount{Target: "/t", Tmpfs: &apiv1.Tmpfs{Size: 5, Mode: 0o700}},
		&apiv1.Mount{Source: strings.Repeat("a", 64), Target: "/anonymous", Volume: true, Path: "/vol"},
		&apiv1.Mount{Source: "data", Target: "/sub", Volume: true, Subpath: "x"},
		&apiv1.Mount{Source: "/p", Target: "/p", NonRecursive: true})
	wants(t, view.Container(c), map[string]string{
		"State.Running": "true", "State.Restarting": "true", "RestartCount": "4", "ExecIDs": `["e"]`,
		"State.Health.Status": `"unhealthy"`, "State.Health.FailingStreak": "3", "State.Health.Log.0.ExitCode": "1",
		"State.Health.Log.0.Output": `"no"`, "State.Health.Log.0.Start": `"2026-01-02T03:04:05Z"`,
		"Config.Volumes":   `{"/anonymous":{}}`,
		"HostConfig.Tmpfs": `{"/t":"size=5,mode=700"}`,
		"HostConfig.Binds": `["data:/d","/src:/s:ro"]`,
		"HostConfig.Mounts": `[{"Source":"data","Target":"/sub","Type":"volume"},` +
			`{"Source":"/p","Target":"/p","Type":"bind"}]`,
		"Mounts.2.Type":          `"tmpfs"`,
		"Mounts.3.Source":        `"/vol"`,
		"Mounts.3.Driver":        `"local"`,
		"Mounts.5.Propagation":   `"rprivate"`,
		"HostConfig.ShmSize":     "67108864",
		"HostConfig.IpcMode":     `"private"`,
		"HostConfig.LogConfig":   `{"Config":{},"Type":"json-file"}`,
		"HostConfig.Devices":     "[]",
		"Config.ExposedPorts":    "null",
		"HostConfig.CpuShares":   "0",
		"HostConfig.OomScoreAdj": "0",
	})
	sized := view.Container(c).WithSizes(func(id, image string) (written, whole int64) {
		if id != "cc" || image != "sha256:1" {
			t.Errorf("sizes of %s, made from %s", id, image)
		}
		return 5, 7
	})
	wants(t, sized, map[string]string{"SizeRw": "5", "SizeRootFs": "7"})
}
