package single

import (
	"os"
	"path/filepath"
	"testing"
)

// What docker run says of a container that is removed by itself, and what is done to one that there is.
func TestDockerRemovesAndChanges(t *testing.T) {
	n := withImage(t)
	if r := n.docker("", "run", "--rm", "bb", "sh", "-c", "exit 7"); r.code != 7 {
		t.Errorf("docker run --rm: exit code %d, want 7: %s", r.code, r.err)
	}
	r := n.docker("", "run", "--rm", "--mount", "type=bind,src=/nosuch-here,dst=/v", "bb", "true")
	if r.code != 125 {
		t.Errorf("a bind mount of nothing: exit code %d, want 125: %s", r.code, r.err)
	}
	matches(t, "a bind mount of nothing", r.err, "nosuch-here")
	id := n.dockers("run", "-d", "--name", "x", "bb", "sleep", "1000")
	n.dockers("rename", "x", "y")
	n.dockers("update", "-m", "64m", "--restart", "on-failure:3", "y")
	is(t, "after a change", n.dockers("inspect", "-f", "{{.Id}} {{.HostConfig.Memory}} "+
		"{{.HostConfig.RestartPolicy.Name}}", "y"), id+" 67108864 on-failure")
	before := n.dockers("inspect", "-f", "{{.State.Pid}}", "y")
	n.dockers("restart", "-t", "0", "y")
	if after := n.dockers("inspect", "-f", "{{.State.Pid}}", "y"); after == before || after == "0" {
		t.Errorf("the process before a restart is %s, after it %s", before, after)
	}
	waits := n.sessionOf(n.dockerEnv(), nil, dockerCommand, "run", "--rm", "-i", "--name", "z", "bb", "sleep", "1000")
	n.eventually("z runs", func() bool { return n.dockers("ps", "-q", "--filter", "name=z") != "" })
	n.dockers("rm", "-f", "z")
	waits.ends(137, "")
	n.dockers("kill", "y")
	matches(t, "prune", n.dockers("container", "prune", "-f"), id)
	is(t, "containers", n.dockers("ps", "-aq"), "")
}

func TestDockerCopiesFiles(t *testing.T) {
	n := withImage(t)
	if err := os.WriteFile(filepath.Join(n.root, "f"), []byte("text"), 0o640); err != nil {
		t.Fatal(err)
	}
	n.dockers("create", "--name", "c", "bb", "true")
	n.dockers("cp", "f", "c:/etc/f")
	n.dockers("cp", "c:/etc/f", "g")
	if b, err := os.ReadFile(filepath.Join(n.root, "g")); err != nil || string(b) != "text" {
		t.Errorf("the file came back as %q, %v", b, err)
	}
	n.dockers("cp", "c:/etc", "etc")
	if _, err := os.Stat(filepath.Join(n.root, "etc", "passwd")); err != nil {
		t.Errorf("a directory: %v", err)
	}
	n.dockerRefuses("No such container:path|Could not find the file", "cp", "c:/nosuch", "h")
	n.dockerRefuses("no such directory", "cp", "f", "c:/nosuch/dir/")
}

func TestDockerTellsWhatIsUsed(t *testing.T) {
	n := withImage(t)
	id := n.dockers("run", "-d", "--name", "c", "-m", "64m", "bb", "sh", "-c", "while :; do echo >/dev/null; done")
	matches(t, "stats", n.dockers("stats", "--no-stream"), `(?m)^`+id[:12]+
		`\s+c\s+[1-9]\d*\.\d\d%\s+[\d.]+[KM]iB / 64MiB`)
	matches(t, "top", n.dockers("top", "c"), `(?s)^UID\s+PID.*sh -c while`)
	matches(t, "top with arguments", n.dockers("top", "c", "-o", "pid,comm"), `(?s)^PID\s+COMMAND.*sh$`)
	matches(t, "sizes", n.dockers("inspect", "-s", "-f", "{{.SizeRw}} {{.SizeRootFs}}", "c"), `^[1-9]\d+ [1-9]\d+$`)
}

// The health of a container is in lists and inspections.
func TestDockerShowsHealth(t *testing.T) {
	n := withImage(t)
	n.dockers("run", "-d", "--name", "c", "--health-cmd", "test -e /well", "--health-interval", "100ms",
		"--health-retries", "2", "bb", "sleep", "1000")
	health := func() string { return n.dockers("inspect", "-f", "{{.State.Health.Status}}", "c") }
	n.eventually("it is unhealthy", func() bool { return health() == "unhealthy" })
	matches(t, "ps", n.dockers("ps"), `Up .* \(unhealthy\)`)
	is(t, "the exit code of a check", n.dockers("inspect", "-f", "{{(index .State.Health.Log 0).ExitCode}}", "c"), "1")
	n.dockers("exec", "c", "touch", "/well")
	n.eventually("it is healthy", func() bool { return health() == "healthy" })
	matches(t, "ps", n.dockers("ps", "--filter", "health=healthy"), `Up .* \(healthy\)`)
}
