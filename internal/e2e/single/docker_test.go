package single

import "testing"

// Flags that Docker's users have in their fingers.
func TestFlagsOfDocker(t *testing.T) {
	n := withImage(t)
	n.ok("network", "create", "--attachable", "--subnet", "10.7.0.0/24", "front")
	n.ok("run", "-d", "--name", "all", "--network", "front", "-P", "--expose", "8000-8001", "--expose", "53/udp",
		"-p", "127.0.0.1:9000:8001", "--add-host", "here:host-gateway", "bb", "sleep", "1000")
	matches(t, "ports", n.ok("port", "all"),
		`(?s)^53/udp -> 0\.0\.0\.0:\d+.*8000/tcp -> .*8001/tcp -> 127\.0\.0\.1:9000$`)
	matches(t, "hosts", n.ok("exec", "all", "cat", "/etc/hosts"), `(?m)^10\.7\.0\.1\there$`)
	n.ok("stop", "-t", "0", "all")
	n.ok("start", "all")
	matches(t, "a port after a start", n.ok("port", "all", "8000"), `0\.0\.0\.0:\d+`)
	is(t, "on the host's network there is nothing to publish", n.ok("run", "--rm", "-P", "--expose", "80", "--network",
		"host", "bb", "echo", "ran"), "ran")
}
