package engine_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
)

func sysctls(kv ...string) engine.Options {
	o := engine.Options{Sysctls: map[string]string{}}
	for i := 0; i < len(kv); i += 2 {
		o.Sysctls[kv[i]] = kv[i+1]
	}
	return o
}

func TestSysctlsAreTheContainersOwn(t *testing.T) {
	w := newWorld(t)
	paths := []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/ip_unprivileged_port_start",
		"/proc/sys/kernel/msgmax", "/proc/sys/kernel/sem", "/proc/sys/kernel/shm_rmid_forced",
		"/proc/sys/fs/mqueue/msg_max"}
	host := read(t, paths)
	c := w.start(engine.Spec{Command: []string{"sleep", "1000"}, Options: sysctls(
		"net.ipv4.ip_forward", "1", "net.ipv4.ip_unprivileged_port_start", "77", "kernel.msgmax", "9000",
		"kernel.sem", "250 32000 100 129", "kernel.shm_rmid_forced", "1", "fs.mqueue.msg_max", "17")})
	got := w.exec(c.ID, append([]string{"cat"}, paths...)...)
	if want := "1\n77\n9000\n250\t32000\t100\t129\n1\n17\n"; got.out != want {
		t.Errorf("got %q %q, want %q", got.out, got.err, want)
	}
	if now := read(t, paths); now != host {
		t.Errorf("the host had %q and has %q", host, now)
	}
	w.restart()
	if s := w.inspect(c.ID).Spec.Sysctls; s["kernel.msgmax"] != "9000" || len(s) != 6 {
		t.Errorf("the record has %v", s)
	}
}

func TestSysctlsWithAUserNamespace(t *testing.T) {
	w := newWorld(t)
	got := w.mustRun(engine.Spec{Command: []string{"cat", "/proc/sys/kernel/msgmax"}, UserNS: "auto", Remove: true,
		Options: sysctls("kernel.msgmax", "9000")}, "")
	if got.out != "9000\n" || got.Code != 0 {
		t.Errorf("%+v", got)
	}
}

func TestSysctlsOfOthersAreRefused(t *testing.T) {
	w := newWorld(t)
	w.create(engine.Spec{Name: "there"})
	on := func(network string) []cnm.AttachRequest { return []cnm.AttachRequest{{Network: network}} }
	forward := sysctls("net.ipv4.ip_forward", "1")
	for name, tt := range map[string]struct {
		spec engine.Spec
		part string
	}{
		"host's":            {engine.Spec{Options: sysctls("kernel.core_pattern", "x")}, "net.*"},
		"host's, too":       {engine.Spec{Options: sysctls("vm.swappiness", "1")}, `"vm.swappiness"`},
		"like one of IPC":   {engine.Spec{Options: sysctls("kernel.shmfoo", "1")}, "the host's"},
		"slash":             {engine.Spec{Options: sysctls("net/../kernel/sysrq", "1")}, "with dots"},
		"slash further on":  {engine.Spec{Options: sysctls("net.x/../../kernel/sysrq", "1")}, "with dots"},
		"dots":              {engine.Spec{Options: sysctls("net...kernel.sysrq", "1")}, "with dots"},
		"no value":          {engine.Spec{Options: sysctls("net.ipv4.ip_forward", "")}, "NAME=VALUE"},
		"two lines":         {engine.Spec{Options: sysctls("net.ipv4.ip_forward", "1\n2")}, "one line"},
		"network host":      {engine.Spec{Options: forward, Networks: on("host")}, "network host"},
		"network container": {engine.Spec{Options: forward, Networks: on("container:there")}, "set it there"},
		"user namespace":    {engine.Spec{Options: forward, UserNS: "auto"}, "--userns"},
	} {
		t.Run(name, func(t *testing.T) {
			tt.spec.Image = "busybox"
			_, _, err := w.e.Create(t.Context(), tt.spec)
			if !errors.Is(err, cnm.ErrInvalid) || !strings.Contains(err.Error(), tt.part) {
				t.Errorf("got %v, want a refusal with %q", err, tt.part)
			}
		})
	}
	_, err := w.run(engine.Spec{Command: []string{"true"}, Options: sysctls("net.ipv4.nonesuch", "1")}, "")
	if err == nil || !strings.Contains(err.Error(), "net/ipv4/nonesuch") {
		t.Errorf("one that the kernel does not have: %v", err)
	}
}

func read(t *testing.T, paths []string) string {
	t.Helper()
	var out strings.Builder
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
	}
	return out.String()
}
