package single

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestALife(t *testing.T) {
	n := withImage(t)
	n.ok("create", "--name", "c", "-v", "vol:/v", "-p", "8080:80", "bb", "sh", "-c",
		"trap 'echo asked; exit 5' TERM; echo began; echo run >> /v/runs; while :; do sleep 0.05; done")
	status := func() string { return n.ok("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "c") }
	is(t, "created", status(), "created 0")
	began := func(times int) func() bool {
		return func() bool { return strings.Count(n.ok("logs", "c"), "began") == times }
	}
	n.ok("start", "c")
	n.eventually("it began", began(1))
	is(t, "running", status(), "running 0")
	n.refuses(
		refusal{"rm c", 1, `it is running.*net stop`},
		refusal{"kill -s BOGUS c", 1, `no such signal`},
		refusal{"rmi bb", 1, `in use by container c`},
		refusal{"volume rm vol", 1, `in use by container c`},
	)
	n.ok("stop", "c")
	is(t, "stopped by its own handler", status(), "exited 5")
	is(t, "wait", n.ok("wait", "c"), "5")
	is(t, "stop again", n.ok("stop", "c"), "c")
	n.refuses(
		refusal{"exec c true", 1, `not running.*net start`},
		refusal{"kill c", 1, `not running`},
	)
	is(t, "sockets of a stopped container", strings.TrimSpace(n.Sh("ss -Hltn | grep -v '%vlb-.*:53 ' || true")), "")
	n.ok("start", "c")
	n.eventually("it began again", began(2))
	is(t, "its volume", n.ok("exec", "c", "wc", "-l", "/v/runs"), "2 /v/runs")
	n.ok("kill", "c")
	is(t, "killed", n.ok("wait", "c"), "137")
	is(t, "ps", n.ok("ps", "-a", "--format", "{{.Names}} {{.Status}}")[:12], "c Exited (13")
	n.ok("rm", "c")
	n.refuses(refusal{"rm c", 1, `no such container.*net ps -a`}, refusal{"wait c", 1, `no such container`})
	n.ok("volume", "rm", "vol")
	n.ok("run", "-d", "--name", "deaf", "bb", "sleep", "1000")
	n.ok("stop", "-t", "0", "deaf")
	is(t, "one that hears nothing", n.ok("wait", "deaf"), "137")
}

func TestLogs(t *testing.T) {
	n := withImage(t)
	n.ok("run", "--name", "c", "bb", "sh", "-c", "for i in 1 2 3; do echo line $i; done")
	n.ok("run", "--name", "e", "bb", "sh", "-c", "echo wrong >&2")
	is(t, "all", n.ok("logs", "c"), "line 1\nline 2\nline 3")
	is(t, "standard error", n.net("logs", "e").err, "wrong")
	is(t, "tail", n.ok("logs", "--tail", "2", "c"), "line 2\nline 3")
	is(t, "none", n.ok("logs", "--tail", "0", "c"), "")
	is(t, "the future", n.ok("logs", "--since", time.Now().Add(time.Hour).Format(time.RFC3339), "c"), "")
	matches(t, "times", n.ok("logs", "-t", "--tail", "1", "c"), `^\d{4}-\d\d-\d\dT.*Z line 3$`)
	n.refuses(
		refusal{"logs --tail x c", 1, `a number of lines, or all`},
		refusal{"logs --since garbage c", 1, `is not a time`},
		refusal{"logs nope", 1, `no such container`},
	)
	n.ok("run", "-d", "--name", "f", "bb", "sh", "-c", "echo first; read x < /gate || sleep 0.2; echo last")
	is(t, "followed to the end", n.ok("logs", "-f", "f"), "first\nlast")
}

func TestExec(t *testing.T) {
	n := withImage(t)
	n.ok("run", "-d", "--name", "c", "-e", "A=1", "bb", "sleep", "1000")
	for _, c := range []struct {
		args, in, out string
		code          int
	}{
		{"exec c echo hi", "", "hi", 0},
		{"exec -i c wc -c", "12345", "5", 0},
		{"exec -u ann c id -un", "", "ann", 0},
		{"exec -w /data c cat seed", "", "from the image", 0},
		{"exec -e B=2 c sh -c echo\t$A$B", "", "12", 0},
		{"exec c sh -c exit\t9", "", "", 9},
		{"exec c nosuch", "", "", 127},
		{"exec c /etc/plain", "", "", 126},
		{"exec c /etc", "", "", 126},
		{"exec c sh -c kill\t-TERM\t$$", "", "", 143},
		{"exec -d c nosuch", "", "", 127},
		{"exec -d c /etc/plain", "", "", 126},
		{"exec -d c false", "", "", 0},
	} {
		args := strings.Split(c.args, " ")
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "\t", " ")
		}
		r := n.pipe(c.in, args...)
		is(t, c.args, fmt.Sprint(r.out, r.code), fmt.Sprint(c.out, c.code))
	}
	n.ok("exec", "-d", "c", "sh", "-c", "echo x > /tmp/done")
	n.eventually("the command in the background",
		func() bool { return n.net("exec", "c", "test", "-s", "/tmp/done").code == 0 })
	n.refuses(
		refusal{"exec -u nobody-here c true", 125, `user "nobody-here"`},
		refusal{"exec nope true", 1, `no such container`},
		refusal{"exec -w /nope c true", 125, `workdir "/nope": no directory in the container`},
	)
}

func TestEventsTellTheStory(t *testing.T) {
	n := withImage(t)
	cmd := exec.Command(program(t, "net"), "-H", "unix://"+n.sock, "events", "--format", "{{.Type}} {{.Action}}")
	out := &lines{}
	cmd.Stdout = out
	if err := n.Do("", cmd.Start); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	n.eventually("events are watched", func() bool { // until the first one arrives
		n.ok("network", "create", "probe")
		n.ok("network", "rm", "probe")
		return out.has("network remove")
	})
	n.ok("network", "create", "web")
	n.ok("run", "-d", "--name", "c", "--network", "web", "bb", "sleep", "1000")
	n.ok("rm", "-f", "c")
	for _, want := range []string{"network create", "container create", "container start", "container die",
		"container destroy"} {
		n.eventually("event "+want, func() bool { return out.has(want) })
	}
}
