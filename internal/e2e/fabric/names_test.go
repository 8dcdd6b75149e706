package fabric_test

import (
	"fmt"
	"testing"

	"github.com/vethloom/vethloom/internal/lab"
)

// Names travel with what nodes tell each other, on networks of each driver: they come with a container and go with it,
// and stay while etcd is away.
func TestNamesAcrossNodes(t *testing.T) {
	f := up(t, lab.Config{Nodes: 2, Etcd: lab.EtcdSingle})
	for _, d := range drivers {
		f.run("n1", fmt.Sprintf("net network create -d %s --ipv6 web-%s", d, d))
		f.until("n2", "net network inspect web-"+d)
		for node, name := range map[string]string{"n1": "a", "n2": "b"} {
			f.until(node, fmt.Sprintf("net run -d --name %s-%s --network name=web-%s,alias=app,alias=app-%s "+
				"busybox sleep 99999 || { net rm -f %s-%s; false; }", name, d, d, d, name, d))
		}
	}
	asks := func(d, name, want string) string {
		return fmt.Sprintf("net exec a-%s nslookup %s | grep -c '^Address.* [0-9a-f.:]*$' | grep -qx %s", d, name, want)
	}
	for _, d := range drivers {
		f.until("n1", fmt.Sprintf("net endpoint ls web-%s --format '{{.Name}} {{.Node}} {{.Engine}}' | "+
			"tr '\\n' ' ' | grep -x 'a-%[1]s n1 vethloom b-%[1]s n2 vethloom '", d))
		for _, name := range []string{"b-" + d, "b-" + d + ".web-" + d} {
			f.until("n1", asks(d, name, "2")) // one of each family
		}
		f.until("n1", asks(d, "app-"+d, "4"))
		f.until("n1", fmt.Sprintf("net exec a-%s ping -c1 -W1 b-%[1]s && "+
			"net exec a-%[1]s ping -6 -c1 -W1 b-%[1]s.web-%[1]s", d))
		f.until("n2", fmt.Sprintf("net exec b-%s nslookup $(net inspect -f '{{range .NetworkSettings.Networks}}"+
			"{{.IPAddress}}{{end}}' b-%[1]s) | grep 'name = b-%[1]s.web-%[1]s'", d))
		v4 := f.run("n2", fmt.Sprintf(
			"net inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' b-%s", d))
		f.until("n1", fmt.Sprintf("net exec a-%s nslookup %s | grep 'name = b-%[1]s.web-%[1]s'", d, v4))
	}
	f.fault("partition", "n1")
	for _, d := range drivers {
		f.run("n1", asks(d, "b-"+d, "2"))
	}
	f.fault("join", "n1")
	for _, d := range drivers {
		f.run("n2", "net rm -f b-"+d)
	}
	for _, d := range drivers {
		f.until("n1", fmt.Sprintf("net exec a-%s nslookup b-%s | grep NXDOMAIN", d, d))
		f.until("n1", asks(d, "app-"+d, "2"))
	}
	f.converged("n1", "n2")
}
