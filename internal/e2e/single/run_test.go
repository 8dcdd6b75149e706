package single

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRunGivesTheCommandsExitCode(t *testing.T) {
	n := withImage(t)
	for _, c := range []struct {
		args string
		code int
		err  string
	}{
		{"run --rm bb true", 0, ""},
		{"run --rm bb sh -c exit\t7", 7, ""},
		{"run --rm bb nosuch", 127, `command "nosuch": not found`},
		{"run --rm bb /bin/nosuch", 127, `"/bin/nosuch": not found`},
		{"run --rm bb /etc/plain", 126, `"/etc/plain": not executable`},
		{"run --rm bb /etc", 126, `"/etc": not executable`},
		{"run --rm --pull never bb:nope true", 125, `no such image: bb:nope.*net images`},
		{"run --rm --bogus bb true", 125, "unknown flag: --bogus.*--help"},
		{"run --rm bb", 125, "give a command"},
		{"run --rm bb sh -c sh\t-c\t'kill\t-9\t$$';exit\t$?", 137, ""},
	} {
		args := strings.Split(c.args, " ")
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "\t", " ")
		}
		r := n.net(args...)
		if r.code != c.code {
			t.Errorf("net %s: exit code %d, want %d: %s", c.args, r.code, c.code, r.err)
		}
		matches(t, c.args, r.err, c.err)
	}
	is(t, "containers after --rm", n.ok("ps", "-aq"), "")
}

func TestRunPassesStandardStreamsOn(t *testing.T) {
	n := withImage(t)
	r := n.net("run", "--rm", "bb", "sh", "-c", "echo out; echo err >&2")
	is(t, "out", r.out, "out")
	is(t, "err", r.err, "err")
	is(t, "input without -i", n.pipe("unread", "run", "--rm", "bb", "cat").out, "")
	is(t, "the end of input", n.pipe("a\nb", "run", "--rm", "-i", "bb", "wc", "-l").out, "1")

	data := make([]byte, 8<<20)
	random := rand.NewChaCha8([32]byte{1})
	random.Read(data)
	back := n.pipe(string(data)+"\n", "run", "--rm", "-i", "bb", "cat").out
	if sha256.Sum256([]byte(back)) != sha256.Sum256(data) {
		t.Errorf("%d bytes of binary came back as %d others", len(data), len(back))
	}
	is(t, "a reader that ends early", n.pipe(string(data), "run", "--rm", "-i", "bb", "sh", "-c",
		"head -c 3 >/dev/null; echo done").out, "done")
}

func TestRunSettings(t *testing.T) {
	n := withImage(t)
	if err := os.Mkdir(filepath.Join(n.root, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	host := filepath.Join(n.root, "dir")
	for _, c := range []struct{ flags, script, want string }{
		{"-e A=1 -e B=x=y", "echo $A $B", "1 x=y"},
		{"-w /new/dir", "pwd", "/new/dir"},
		{"-h box", "hostname; cat /etc/hostname", "box\nbox"},
		{"-h box.example", "awk '/box/ {print $2, $3}' /etc/hosts", "box.example box"},
		{"-u ann", "id", "uid=1000(ann) gid=1000(ann) groups=1000(ann),2000(lamps)"},
		{"-u ann:lamps", "id -g", "2000"},
		{"-u 1234:99", "id -u; id -g", "1234\n99"},
		{"--cap-drop ALL", "grep CapEff /proc/self/status", "CapEff:\t0000000000000000"},
		{"--cap-drop ALL --cap-add NET_RAW", "grep CapEff /proc/self/status", "CapEff:\t0000000000002000"},
		{"--userns auto", "id -u; [ $(awk '{print $2}' /proc/self/uid_map) -gt 65535 ] && echo mapped", "0\nmapped"},
		{"--add-host tool:192.0.2.9", "grep tool /etc/hosts", "192.0.2.9\ttool"},
		{"--dns 192.0.2.53", "cat /etc/resolv.conf", "nameserver 127.0.0.11\noptions ndots:0"},
		{"--entrypoint /bin/echo", "", "-c"},
		{"-v " + host + ":/v", "echo text > /v/f; cat /v/f", "text"},
		{"-v ./dir:/v:ro", "cat /v/f; touch /v/g 2>/dev/null || echo no", "text\nno"},
		{"-v vol:/v", "echo kept > /v/f", ""},
		{"-v vol:/v:ro", "cat /v/f; touch /v/g 2>/dev/null || echo no", "kept\nno"},
		{"--read-only", "touch /f 2>/dev/null || echo no", "no"},
		{"--privileged", "mount -t tmpfs none /tmp && echo yes", "yes"},
		{"", "mount -t tmpfs none /tmp 2>/dev/null || echo no", "no"},
		{"-u ann", "nc -l -p 80 & sleep 0.1; kill $! && echo low ports", "low ports"},
	} {
		args := append([]string{"run", "--rm"}, strings.Fields(c.flags)...)
		args = append(args, "bb", "sh", "-c", c.script)
		if strings.Contains(c.flags, "--entrypoint") {
			args = append([]string{"run", "--rm"}, append(strings.Fields(c.flags), "bb", "-c")...)
		}
		r := n.net(args...)
		is(t, c.flags+" "+c.script+" "+r.err, r.out, c.want)
	}
}

func TestRunRefuses(t *testing.T) {
	n := withImage(t)
	n.refuses(
		refusal{"run -u nobody-here bb true", 125, `user "nobody-here".*/etc/passwd`},
		refusal{"run -w rel bb true", 125, `workdir "rel".*begin it with /`},
		refusal{"run -w /etc/passwd bb true", 125, `workdir "/etc/passwd": no directory`},
		refusal{"run --network container:there --hostname x bb true", 125, `hostname "x".*leave it out`},
		refusal{"run -v /x:rel bb true", 125, `"rel", is not absolute`},
		refusal{"run -v a:b:c:d bb true", 125, `too many colons`},
		refusal{"run -m 1k bb true", 125, `memory "1024": too small`},
		refusal{"run -m many bb true", 125, `"many" is not a size.*64m`},
		refusal{"run --cpus x bb true", 125, `"x" is not a number of CPUs`},
		refusal{"run --pids-limit -5 bb true", 125, `use a positive number`},
		refusal{"run --cap-add BOGUS bb true", 125, `no such capability`},
		refusal{"run --userns maybe bb true", 125, `use host or auto`},
		refusal{"run --stop-signal BOGUS bb true", 125, `no such signal`},
		refusal{"run --name a/b bb true", 125, `name "a/b"`},
		refusal{"run -p 70000:80 bb true", 125, `"70000" is not a port number`},
		refusal{"run -p 80-81:80 bb true", 125, `same length`},
		refusal{"run -p 80/icmp bb true", 125, `protocol "icmp"`},
		refusal{"run --ip 10.1.1.1.1 bb true", 125, `not an IPv4 address`},
		refusal{"run --ip 10.9.9.9 bb true", 125, `not in the subnet of network "bridge"`},
		refusal{"run --mac-address 01:00:00:00:00:01 bb true", 125, `multicast`},
		refusal{"run --mac-address zz bb true", 125, `six hexadecimal bytes`},
		refusal{"run --gw-priority 5000 bb true", 125, `-1000 to 1000`},
		refusal{"run --network nope bb true", 125, `network "nope": not found`},
		refusal{"run --network container:nope bb true", 125, `no such container`},
		refusal{"run --network host -p 80 bb true", 125, `leave the ports out`},
		refusal{"run --network none -p 80 bb true", 125, `choose a bridge network`},
		refusal{"run --network host --network bridge bb true", 125, `cannot be combined`},
		refusal{"run -it bb true", 125, `no terminal`},
	)
	// What could not start is removed, or was never made.
	for _, id := range strings.Fields(n.ok("ps", "-aq")) {
		is(t, "a container that could not run", n.ok("inspect", "-f", "{{.State.Status}}", id), "created")
	}
	if pools, _ := filepath.Glob(filepath.Join(n.RunDir, "netns", "*")); len(pools) > 0 {
		t.Errorf("network namespaces of what could not run: %v", pools)
	}
}

func TestLimitsAreEnforced(t *testing.T) {
	n := withImage(t)
	r := n.net("run", "--name", "oom", "-m", "16m", "bb", "tail", "/dev/zero")
	is(t, "exit code, out of memory", fmt.Sprint(r.code), "137")
	is(t, "inspect", n.ok("inspect", "-f", "{{.State.ExitCode}} {{.State.OOMKilled}} {{.HostConfig.Memory}}", "oom"),
		"137 true 16777216")
	r = n.net("run", "--rm", "--pids-limit", "10", "bb", "sh", "-c", "for i in $(seq 30); do sleep 5 & done")
	matches(t, "a process too many", r.err, "can't fork")
}
