package single

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/console"
)

// dockerEnv leads Docker's own command to netd.
func (n *node) dockerEnv() []string {
	return []string{"DOCKER_HOST=unix://" + filepath.Join(n.RunDir, "docker.sock"),
		"DOCKER_CONFIG=" + filepath.Join(n.root, "docker-config")}
}

func TestDockerRun(t *testing.T) {
	n := withImage(t)
	for _, c := range []struct {
		args, in  string
		code      int
		out, errs string // errs is a regular expression
	}{
		{args: "run --rm bb true"},
		{args: "run bb sh -c exit\t7", code: 7},
		{args: "run --rm bb echo hello", out: "hello"},
		{args: "run --rm bb sh -c echo\tout;echo\terr>&2", out: "out", errs: "^err$"},
		{args: "run --rm bb nosuch", code: 127, errs: `"nosuch": not found`},
		{args: "run --rm bb /etc/plain", code: 126, errs: "not executable"},
		{args: "run --rm -i bb wc -l", in: "a\nb\n", out: "2"},
		{args: "run --rm -i bb cat", in: strings.Repeat("0123456789\n", 100000),
			out: strings.TrimSuffix(strings.Repeat("0123456789\n", 100000), "\n")},
		{args: "run --rm -i bb head -n 1", in: strings.Repeat("0123456789\n", 100000), out: "0123456789"},
		{args: "run --rm -e A=1 -e B=x=y -w /etc -u ann -h box bb sh -c echo\t$A\t$B;pwd;id\t-un;hostname",
			out: "1 x=y\n/etc\nann\nbox"},
		{args: "run --rm --network none bb ip -o link", out: "lo"},
		{args: "run --rm --network container:nosuch bb true", code: 125, errs: "no such container"},
		{args: "run --rm --pull never nosuch true", code: 125, errs: "No such image: nosuch:latest"},
		{args: "run --rm --gpus all bb true", code: 125, errs: "drivers of devices"},
		{args: "run --rm --name a/b bb true", code: 125, errs: "name"},
		{args: "run --rm -v named:/v bb sh -c echo\tkept>/v/f"},
		{args: "run --rm -v named:/v:ro bb sh -c cat\t/v/f;touch\t/v/g||echo\tno", out: "kept\nno", errs: "Read-only"},
		{args: "run --rm --mount type=volume,src=named,dst=/v bb cat /v/f", out: "kept"},
	} {
		args := strings.Split(c.args, " ")
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "\t", " ")
		}
		r := n.docker(c.in, args...)
		if r.code != c.code {
			t.Errorf("docker %s: exit code %d, want %d: %s", c.args, r.code, c.code, r.err)
		}
		if strings.HasSuffix(c.out, "lo") && strings.Contains(r.out, "lo:") {
			r.out = "lo"
		}
		is(t, c.args, r.out, c.out)
		matches(t, c.args, r.err, c.errs)
		if c.errs == "" && r.err != "" {
			t.Errorf("docker %s says %q", c.args, r.err)
		}
	}
	is(t, "containers without --rm", n.dockers("ps", "-a", "--filter", "exited=7", "--format", "{{.Image}}"), "bb")
	n.dockers("rm", n.dockers("ps", "-aq", "--filter", "exited=7"))
	is(t, "containers after --rm", n.dockers("ps", "-aq"), "")
}

func TestDockerShowsContainers(t *testing.T) {
	n := withImage(t)
	id := n.dockers("run", "-d", "--name", "web", "-p", "127.0.0.1:8080:80", "-p", "9000-9002:9000-9002", "--label",
		"a=b", "bb", "sh", "-c", "echo begun; while :; do sleep 0.1; done")
	is(t, "inspect", n.dockers("inspect", "-f", "{{.Id}} {{.Name}} {{.State.Status}} {{.Config.Image}} "+
		"{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}} {{.HostConfig.NetworkMode}}", "web"),
		id+" /web running bb 8080 bridge")
	addr := n.ok("inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "web")
	is(t, "addresses", n.dockers("inspect", "-f", "{{.NetworkSettings.IPAddress}} "+
		"{{.NetworkSettings.Networks.bridge.IPAddress}}", "web"), addr+" "+addr)
	matches(t, "ps", n.dockers("ps"), `(?s)CONTAINER ID.*`+id[:12]+
		`\s+bb\s+"sh -c 'echo begun;.*Up .*127\.0\.0\.1:8080->80/tcp.*web`)
	for filter, want := range map[string]string{"publish=8080": "", "publish=80": id[:12], "publish=9001/tcp": id[:12],
		"label=a": id[:12], "label=a=c": "", "name=we": id[:12], "name=^we$": "", "status=paused": "",
		"ancestor=bb": id[:12], "network=bridge": id[:12], "health=none": id[:12], "volume=none": ""} {
		is(t, filter, n.dockers("ps", "-q", "--filter", filter), want)
	}
	r := n.docker("", "ps", "--filter", "nosuch=1")
	matches(t, "a filter that there is not", r.err, "invalid filter 'nosuch'")
	is(t, "port", n.dockers("port", "web", "80"), "127.0.0.1:8080")
	n.eventually("the log", func() bool { return n.dockers("logs", "web") == "begun" })
	matches(t, "timestamps", n.dockers("logs", "-t", "--tail", "1", "web"), `^20\d\d-\d\d-\d\dT[\d:.]+Z begun$`)
	n.dockers("exec", "web", "touch", "/made")
	matches(t, "diff", n.dockers("diff", "web"), `(?m)^A /made$`)
	upper := n.dockers("inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", "web")
	if _, err := os.Stat(filepath.Join(upper, "made")); err != nil {
		t.Errorf("what it has written: %v", err)
	}
	for _, ref := range []string{"web", "/web", id, id[:12]} {
		is(t, ref, n.dockers("inspect", "-f", "{{.Id}}", ref), id)
	}
	matches(t, "one that there is not", n.docker("", "inspect", "nosuch").err, "No such object: nosuch")
	matches(t, "one that there is not", n.docker("", "stop", "nosuch").err, "No such container: nosuch")
}

func TestDockerExec(t *testing.T) {
	n := withImage(t)
	n.dockers("run", "-d", "--name", "web", "bb", "sleep", "1000")
	is(t, "exec", n.dockers("exec", "-e", "A=1", "-w", "/etc", "-u", "ann", "web", "sh", "-c", "echo $A; pwd; id -un"),
		"1\n/etc\nann")
	is(t, "input", n.docker("text", "exec", "-i", "web", "cat").out, "text")
	for args, want := range map[string]int{"exit 6": 6, "kill -9 $$": 137, "true": 0} {
		if r := n.docker("", "exec", "web", "sh", "-c", args); r.code != want {
			t.Errorf("exec %s: exit code %d, want %d: %s", args, r.code, want, r.err)
		}
	}
	if r := n.docker("", "exec", "web", "nosuch"); r.code != 127 || !strings.Contains(r.out, "not found") {
		t.Errorf("exec of nothing: exit code %d, want 127: %s%s", r.code, r.out, r.err)
	}
	n.dockers("exec", "-d", "web", "touch", "/made")
	n.eventually("a detached exec", func() bool {
		return n.docker("", "exec", "web", "test", "-e", "/made").code == 0
	})
	is(t, "commands that run", n.dockers("inspect", "-f", "{{.ExecIDs}}", "web"), "[]")
	n.dockers("exec", "-d", "web", "sleep", "1000")
	n.eventually("a command that runs", func() bool {
		return len(n.dockers("inspect", "-f", "{{.ExecIDs}}", "web")) == len("[]")+64
	})
	n.dockers("kill", "web")
	if r := n.docker("", "exec", "web", "true"); r.code != 1 || !strings.Contains(r.err, "is not running") {
		t.Errorf("exec in what does not run: exit code %d: %s", r.code, r.err)
	}
}

func TestDockerLife(t *testing.T) {
	n := withImage(t)
	id := n.dockers("create", "--name", "web", "-i", "bb", "sh", "-c", "trap 'echo ended; exit 3' TERM; echo begun; "+
		"while :; do sleep 0.1; done")
	is(t, "a container that was made", n.dockers("ps", "-a", "--format", "{{.Status}}"), "Created")
	follow := n.sessionOf(n.dockerEnv(), nil, dockerCommand, "start", "-a", "web")
	follow.says("begun")
	logs := n.sessionOf(n.dockerEnv(), nil, dockerCommand, "logs", "-f", "web")
	logs.says("begun")
	waits := n.sessionOf(n.dockerEnv(), nil, dockerCommand, "wait", "web")
	n.dockers("start", "web") // once more is no error
	n.dockers("pause", "web")
	is(t, "paused", n.dockers("ps", "-q", "--filter", "status=paused"), id[:12])
	matches(t, "paused", n.dockers("ps"), `Up .* \(Paused\)`)
	matches(t, "attach to what is paused", n.docker("", "attach", "web").err, "paused")
	n.dockers("unpause", "web")
	n.dockers("stop", "-t", "30", "web")
	follow.ends(3, "begun\nended\n")
	logs.ends(0, "begun\nended\n")
	waits.ends(0, "3\n")
	n.dockers("stop", "web") // so is this
	is(t, "the end", n.dockers("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "web"), "exited 3")
	is(t, "wait", n.dockers("wait", "web"), "3")
	matches(t, "ps of what has ended", n.dockers("ps", "-a"), `Exited \(3\) .* ago`)
	n.dockers("start", "web")
	matches(t, "remove what runs", n.docker("", "rm", "web").err, "running")
	n.dockers("kill", "-s", "KILL", "web")
	is(t, "the end", n.dockers("wait", "web"), "137")
	n.dockers("start", "web")
	n.dockers("rm", "-f", "-v", "web")
	is(t, "containers", n.dockers("ps", "-aq"), "")
}

func TestDockerTerminal(t *testing.T) {
	n := withImage(t)
	tty := n.terminalOf(n.dockerEnv(), dockerCommand, "run", "-it", "--name", "c", "bb", "sh")
	tty.sees("#")
	tty.types("stty size; tty; echo ready$((1+1))\r")
	tty.sees("ready2")
	tty.sees("/dev/pts/0")
	size := func() string { return n.docker("", "exec", "c", "sh", "-c", "stty size < /proc/1/fd/0").out }
	n.eventually("the size", func() bool { return size() == "33 101" })
	if err := tty.pty.Resize(console.WinSize{Height: 40, Width: 90}); err != nil {
		t.Fatal(err)
	}
	n.eventually("the new size", func() bool { return size() == "40 90" })
	tty.types("\x10\x11")
	is(t, "exit code after detaching", string(rune('0'+<-tty.gone)), "0")
	is(t, "runs on", n.dockers("inspect", "-f", "{{.State.Status}}", "c"), "running")
	again := n.terminalOf(n.dockerEnv(), dockerCommand, "attach", "c")
	again.types("echo back$((1+1))\r")
	again.sees("back2")
	sh := n.terminalOf(n.dockerEnv(), dockerCommand, "exec", "-it", "c", "sh")
	sh.sees("#")
	sh.types("stty size; exit 5\r")
	is(t, "exit code of exec", string(rune('0'+<-sh.gone)), "5")
	sh.sees("33 101")
	again.types("exit 6\r")
	is(t, "exit code", string(rune('0'+<-again.gone)), "6")
}
