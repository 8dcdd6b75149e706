package fabric_test

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/internal/lab"
	"github.com/vethloom/vethloom/internal/lab/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// drivers are those whose networks reach other nodes.
var drivers = []string{"overlay", "vxlan", "udp", "host-gw"}

// fabric is a lab with a network of each driver.
type fabric struct {
	*lab.Lab
	t    *testing.T
	seen map[string]string // what netd said, for when it is stopped
}

func up(t *testing.T, c lab.Config) fabric {
	t.Helper()
	c.IPv6, c.Flags = true, append(c.Flags, "--fastpath="+kerntest.FastPath())
	return fabric{labtest.Up(t, c), t, map[string]string{}}
}

// try runs a shell command on a host.
func (f fabric) try(host, command string) (string, error) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), lab.Patience)
	defer cancel()
	args, err := f.Command(host, "sh", "-c", command)
	if err != nil {
		f.t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = f.Environ(host)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (f fabric) run(host, command string) string {
	f.t.Helper()
	out, err := f.try(host, command)
	if err != nil {
		f.t.Fatalf("%s: %s: %v\n%s", host, command, err, out)
	}
	return out
}

// refused runs what must fail, with an error that says each of the words.
func (f fabric) refused(host, command string, words ...string) {
	f.t.Helper()
	out, err := f.try(host, command)
	if err == nil {
		f.t.Fatalf("%s: %s: succeeded\n%s", host, command, out)
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			f.t.Errorf("%s: %s: the error does not say %q: %s", host, command, w, out)
		}
	}
}

func (f fabric) fault(words ...string) {
	f.t.Helper()
	if err := f.Fault(f.t.Context(), words...); err != nil {
		f.t.Fatalf("fault %v: %v", words, err)
	}
}

// until waits for a shell command to succeed.
func (f fabric) until(host, command string) {
	f.t.Helper()
	await.Done(f.t, host+": "+command, func() error {
		out, err := f.try(host, command)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// populate makes a network of each driver from one node, and a container on each network on each of the nodes.
func (f fabric) populate(nodes ...string) {
	f.t.Helper()
	for _, d := range drivers {
		f.run("n1", fmt.Sprintf("net network create -d %s --ipv6 web-%s", d, d))
	}
	for _, n := range nodes {
		for _, d := range drivers {
			f.until(n, "net network inspect web-"+d)
			f.until(n, fmt.Sprintf("net run -d --name c-%s --network web-%s busybox sleep 99999 || { net rm -f "+
				"c-%s; false; }", d, d, d))
		}
	}
}

// addrs are the IPv4 and IPv6 address of a node's container.
func (f fabric) addrs(node, driver string) (v4, v6 string) {
	f.t.Helper()
	out := f.run(node, fmt.Sprintf(
		"net inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.GlobalIPv6Address}}{{end}}' c-%s",
		driver))
	v4, v6, _ = strings.Cut(out, " ")
	return v4, v6
}

// reaches reports whether a node's container of each driver reaches another node's, by both families.
func (f fabric) reach(from, to string) {
	f.t.Helper()
	for _, d := range drivers {
		v4, v6 := f.addrs(to, d)
		f.until(from, fmt.Sprintf("net exec c-%s ping -c1 -W1 %s && net exec c-%s ping -6 -c1 -W1 %s", d, v4, d, v6))
	}
}

// reachesNow is reach without waiting: nothing may have been lost meanwhile.
func (f fabric) reachNow(from, to string) {
	f.t.Helper()
	for _, d := range drivers {
		v4, v6 := f.addrs(to, d)
		f.run(from, fmt.Sprintf("net exec c-%s ping -c2 -i 0.2 -W1 %s && net exec c-%s ping -6 -c2 -i 0.2 -W1 %s", d,
			v4, d, v6))
	}
}

// pinging sends a packet every 20 ms from one node's container to another's on each network, until the function
// it returns is called: that tells how many answers were lost.
func (f fabric) pinging(from, to string) (stop func() map[string]int) {
	f.t.Helper()
	for _, d := range drivers {
		v4, _ := f.addrs(to, d)
		f.run(from, fmt.Sprintf("net run -d --name ping-%s --network container:c-%s busybox sh -c 'trap \"kill "+
			"-INT \\$p\" TERM; ping -i 0.02 -W 1 %s & p=$!; wait; wait'", d, d, v4))
	}
	return func() map[string]int {
		lost := map[string]int{}
		for _, d := range drivers {
			f.run(from, "net stop -t 5 ping-"+d)
			out := f.run(from, "net logs ping-"+d+" | tail -3; net rm -f ping-"+d)
			sent, got := 0, 0
			for _, line := range strings.Split(out, "\n") {
				var a, b int
				if _, err := fmt.Sscanf(line, "%d packets transmitted, %d packets received", &a, &b); err == nil {
					sent, got = a, b
				}
			}
			if sent < 10 {
				f.t.Errorf("ping on %s sent %d packets: %s", d, sent, out)
			}
			lost[d] = sent - got
		}
		return lost
	}
}

func (f fabric) converged(nodes ...string) {
	f.t.Helper()
	for _, n := range nodes {
		f.until(n, "net diff")
	}
}
