package single

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// What a container uses is told as the container sees it, and top shows its processes and no others.
func TestStatsAndTop(t *testing.T) {
	n := withImage(t)
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "front")
	n.ok("network", "create", "--subnet", "10.8.0.0/24", "back")
	n.ok("run", "-d", "--name", "server", "--network", "front", "bb", "sleep", "1000")
	n.ok("run", "-d", "--name", "c", "--network", "front", "--network", "back", "-m", "64m", "--pids-limit", "50",
		"bb", "sh", "-c", "sleep 1111 & while :; do :; done")

	stats := func(format string, args ...string) string {
		t.Helper()
		return n.ok(append([]string{"stats", "--no-stream", "--format", format}, args...)...)
	}
	n.eventually("it uses a processor", func() bool {
		p, err := strconv.ParseFloat(strings.TrimSuffix(stats("{{.CPUPerc}}", "c"), "%"), 64)
		return err == nil && p > 5
	})
	matches(t, "memory", stats("{{.MemUsage}} {{.MemPerc}} {{.PIDs}}", "c"),
		`^[\d.]+[KM]iB / 64MiB \d+\.\d\d% 2$`)
	matches(t, "of all that run", stats("{{.Name}}"), `^c\nserver$`)

	// What it sends is what it received of the answers, by network; of one that is idle there is next to nothing.
	n.ok("exec", "c", "ping", "-c", "50", "-i", "0.01", "-s", "1000", "-q", n.ok("inspect", "-f",
		"{{.NetworkSettings.Networks.front.IPAddress}}", "server"))
	traffic := regexp.MustCompile(`back \(eth\d\) \d+B / \d+B, front \(eth\d\) 5\d\.\dkB / 5\d\.\dkB`)
	if got := stats("{{.Networks}}", "c"); !traffic.MatchString(got) {
		t.Errorf("traffic of 50 pings of 1000 bytes on one network of two: %s", got)
	}

	matches(t, "top", n.ok("top", "c"), `(?s)^UID +PID +PPID .*sleep 1111`)
	own := n.ok("top", "c", "-eo", "pid,args")
	if strings.Contains(own, "sleep 1000") || strings.Count(own, "\n") != 2 {
		t.Errorf("processes of the container alone are wanted: %s", own)
	}
	n.ok("exec", "-d", "c", "sleep", "3333")
	n.eventually("further commands are listed", func() bool { return strings.Contains(n.ok("top", "c"), "sleep 3333") })
	n.refuses(
		refusal{"top c -eo args", 1, `find PID field in ps output`},
		refusal{"top c --help", 1, `no option for which processes to show`},
		refusal{"top nobody", 1, `no such container`},
		refusal{"stats --no-stream nobody", 1, `no such container`},
	)
	n.ok("kill", "c")
	n.ok("wait", "c")
	n.refuses(refusal{"top c", 1, `not running`})
	matches(t, "of one that has ended", stats("{{.Name}} {{.CPUPerc}}", "c"), `^c --$`)
}
