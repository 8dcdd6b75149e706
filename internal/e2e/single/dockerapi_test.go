package single

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestDockerCommandScratch(t *testing.T) {
	n := withImage(t)
	d := func(args ...string) result {
		r := n.call("", []string{"DOCKER_CONFIG=" + t.TempDir()}, "/usr/bin/docker",
			append([]string{"-H", "unix://" + filepath.Join(n.RunDir, "docker.sock")}, args...)...)
		t.Logf("docker %s -> %d\n%s\nERR %s", strings.Join(args, " "), r.code, r.out, r.err)
		return r
	}
	for _, line := range strings.Split(strings.TrimSpace(`
version
info
images
image inspect bb
history bb
tag bb other:1
images
images --filter dangling=true
image rm other:1
network ls
network create --subnet 10.9.0.0/24 --label a=b -o com.docker.network.bridge.name=brx web
network ls --filter name=web
network inspect web
network rm bridge
network rm web
network rm web
network ls --filter scope=swarm
network ls --filter foo=bar
volume create data
volume create --label x=y --opt type=tmpfs other
volume ls
volume inspect data
volume rm data
volume rm data
volume prune -f
network prune -f
image prune -f
system df
system df -v
events --since 1h --until 0s
inspect nosuch
swarm init
node ls
plugin ls
search foo
pull 127.0.0.1:1/nosuch:1
build .
login -u a -p b 127.0.0.1:1
`), "\n") {
		d(strings.Fields(line)...)
	}
	d("system", "prune", "-f")
	d("save", "-o", filepath.Join(t.TempDir(), "x.tar"), "bb")
	d("events", "--since", "1h", "--until", "0s", "--format", "{{json .}}")
}
