package fabric_test

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/e2e/dockerdtest"
	"github.com/vethloom/vethloom/internal/lab"
)

// dockerd starts one on a host, which has the image bb. Edit may be nil.
func (f fabric) dockerd(host string, edit func(dockerdtest.Config) dockerdtest.Config) *dockerdtest.Dockerd {
	f.t.Helper()
	run := filepath.Join(f.Dir, f.Name, host, "run")
	c := dockerdtest.Config{Plugin: filepath.Join(run, "plugin.sock"),
		Socket: filepath.Join(run, "dockerd.sock"),
		Start: func(cmd *exec.Cmd) error {
			args, err := f.Command(host, cmd.Args...)
			if err != nil {
				return err
			}
			if cmd.Path, err = exec.LookPath(args[0]); err != nil {
				return err
			}
			cmd.Args = args
			return cmd.Start()
		}}
	if edit != nil {
		c = edit(c)
	}
	d := dockerdtest.New(f.t, c)
	d.Docker("import", "-c", "ENV PATH=/bin", filepath.Join(f.Dir, f.Name, "busybox.tar"), "bb")
	return d
}

// A network of the cluster is one of each dockerd's, by itself: containers of two of them, of which one is an engine of
// today, and one of ours reach each other, and know each other by name.
func TestDockersOnOneOverlay(t *testing.T) {
	f := up(t, lab.Config{Nodes: 3, Etcd: lab.EtcdSingle, Flags: []string{"--docker", "unix://RUN/dockerd.sock"}})
	today := func(c dockerdtest.Config) dockerdtest.Config { return c.Current(t) }
	docker := map[string]*dockerdtest.Dockerd{"n1": f.dockerd("n1", nil), "n2": f.dockerd("n2", today)}
	f.run("n3", "net network create -d overlay --subnet 10.20.0.0/16 --ipv6 web")
	networks := func(host, want string) {
		t.Helper()
		await.True(t, "Docker's networks on "+host+" are "+want, func() bool {
			out, _, err := docker[host].Try("network", "ls", "--filter", "driver=vethloom", "--format", "{{.Name}}")
			return err == nil && out == want
		})
	}
	for host, name := range map[string]string{"n1": "shop", "n2": "cart"} {
		d := docker[host]
		networks(host, "web")
		d.Docker("run", "-d", "--name", name, "--network", "web", "--network-alias", "app", "--dns", "10.20.0.1",
			"bb", "sleep", "100000")
	}
	f.until("n3", "net run -d --name desk --network web busybox sleep 100000")
	f.until("n3", "net endpoint ls web --format '{{.Engine}} {{.Name}} {{.Node}}' | sort | tr '\n' ' ' | "+
		"grep -x 'docker cart n2 docker shop n1 vethloom desk n3 '")
	for _, name := range []string{"shop", "cart", "cart.web", "app"} {
		f.until("n3", "net exec desk ping -c1 -W1 "+name+" && net exec desk ping -6 -c1 -W1 "+name)
	}
	for _, name := range []string{"cart", "desk", "desk.web"} {
		await.True(t, "shop reaches "+name, func() bool {
			_, _, err := docker["n1"].Try("exec", "shop", "ping", "-c1", "-W1", name)
			return err == nil
		})
	}
	docker["n2"].Docker("rename", "cart", "basket")
	f.until("n3", "net exec desk nslookup basket && ! net exec desk nslookup cart")
	f.refused("n1", "net network leave web", "shop", "--force")
	f.run("n1", "net network leave --force web")
	f.converged("n1")
	docker["n1"].Docker("rm", "-f", "shop")
	networks("n1", "")
	f.run("n1", "net network join web")
	networks("n1", "web")
	docker["n1"].Docker("run", "--rm", "--network", "web", "bb", "ping", "-c1", "-W3", "10.20.0.1")
	docker["n2"].Docker("rm", "-f", "basket")
	f.run("n3", "net rm -f desk")
	f.until("n3", "net network rm web")
	networks("n1", "")
	networks("n2", "")
}
