package single

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/engine/shim/shimtest"
)

// The specs of critest in cri-tools 1.37 that need a pod's network pass with containerd on a network of ours. The
// images are ours, by the names that it asks for: no registry is asked.
func TestSpecsOfCRI(t *testing.T) {
	n := newNode(t)
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "web")
	c := newContainerd(n)
	serve := func(port string) string {
		return "echo ok >/tmp/index.html; exec httpd -f -p " + port + " -h /tmp"
	}
	c.load(serve("80"), "local/web:1", "registry.k8s.io/e2e-test-images/httpd:2.4.39-4")
	c.load(serve("12003"), "gcr.io/k8s-staging-cri-tools/hostnet-nginx-amd64:latest")
	shimtest.Write(t, c.dir+"/images.yaml", "defaultTestContainerImage: docker.io/local/bb:1\n"+
		"webServerTestImage: docker.io/local/web:1\n")
	path, err := critest()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Its pods have a cgroup parent of its own choice, as this containerd does not tell of its driver.
		groups, _ := filepath.Glob("/sys/fs/cgroup/*/test.slice")
		for _, g := range groups {
			if err := os.Remove(g); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
		}
	})
	at := "unix://" + c.dir + "/sock"
	for _, spec := range []string{
		"Networking runtime should support networking runtime should support DNS config",
		"runtime should support set hostname",
		"runtime should support port mapping with only container port",
		"runtime should support port mapping with host port and container port",
		"Streaming runtime should support streaming interfaces runtime should support portforward \\[",
		"runtime should support portforward in host network",
		"runtime should support HostNetwork is true",
		"runtime should support HostNetwork is false",
		"Multiple Containers .*should support network",
		"runtime should support running PodSandbox",
		"runtime should support stopping PodSandbox",
		"runtime should support removing PodSandbox",
	} {
		r := n.call("", nil, path, "-config", c.dir+"/crictl.yaml", "-runtime-endpoint", at, "-image-endpoint", at,
			"-test-images-file", c.dir+"/images.yaml", "-ginkgo.no-color", "-ginkgo.focus", spec)
		if r.code != 0 || !strings.Contains(r.out, "Ran 1 of ") || !strings.Contains(r.out, " 1 Passed ") {
			t.Errorf("%s: exit code %d\n%s\n%s", spec, r.code, r.out, r.err)
		}
	}
}
