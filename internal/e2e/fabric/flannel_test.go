package fabric_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/vethloom/vethloom/internal/lab"
)

// flanneld starts what netd takes for a flanneld of a directory; what is returned ends it.
func (f fabric) flanneld(host, directory string) (stop func()) {
	f.t.Helper()
	program := filepath.Join(f.t.TempDir(), "flanneld")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho up\nread end\n"), 0o700); err != nil {
		f.t.Fatal(err)
	}
	args, err := f.Command(host, program, "-etcd-prefix="+directory)
	if err != nil {
		f.t.Fatal(err)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = f.Environ(host)
	in, err := cmd.StdinPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("up\n"))); err != nil {
		f.t.Fatal(err)
	}
	stop = func() {
		in.Close()
		cmd.Wait() //nolint:errcheck // it ends with what read says
	}
	f.t.Cleanup(stop)
	return stop
}

// A lease is not taken from a flanneld that runs: not by a node that joins its network, and not by another node's
// doing that. It is taken over, with its subnet, once the flanneld has ended.
func TestAFlanneldThatRunsKeepsItsLease(t *testing.T) {
	f := up(t, lab.Config{Nodes: 2, Etcd: lab.EtcdSingle})
	for i, driver := range []string{"vxlan", "udp", "host-gw"} {
		dir := "/flannel/" + driver
		key := fmt.Sprintf("%s/subnets/10.%d.7.0-24", dir, 50+i)
		get := "etcdctl get --print-value-only " + key
		f.run("n1", fmt.Sprintf(`etcdctl put %s/config '{"Network": "10.%d.0.0/16", "Backend": {"Type": %q}}'`, dir,
			50+i, driver))
		data := "null"
		if driver == "vxlan" {
			data = `{"VNI": 1, "VtepMAC": "02:00:00:00:00:07"}`
		}
		f.run("n1", fmt.Sprintf(`etcdctl put --lease=$(etcdctl lease grant 3600 | cut -d' ' -f2) %s '{"PublicIP": `+
			`"192.0.2.1", "BackendType": %q, "BackendData": %s}'`, key, driver, data))
		lease := f.run("n1", get)
		stop := f.flanneld("n1", dir)

		join := fmt.Sprintf("net network create -d %s -o flannel.prefix=%s pods-%s", driver, dir, driver)
		f.refused("n1", join, "flanneld (pid", dir, "stop it")
		f.until("n2", join) // once the network that n1 tried to make is gone here too
		f.until("n1", "net status | grep 'pods-"+driver+".*flanneld (pid'")
		if now := f.run("n1", get); now != lease {
			t.Errorf("%s: the lease of a flanneld that runs was %s, and is %s", driver, lease, now)
		}

		stop()
		f.until("n1", get+" | grep NodeID")
		f.until("n1", fmt.Sprintf("net run --rm --network pods-%s busybox ip addr | grep 'inet 10.%d.7.'", driver,
			50+i))
	}
	f.converged("n1", "n2")
}
