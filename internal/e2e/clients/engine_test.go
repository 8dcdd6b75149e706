package clients

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/vethloom/vethloom/engine/shim/shimtest"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/e2e/dockerdtest"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
)

// engine is one that answers Docker's API, with the clients that speak to it.
type engine struct {
	t       *testing.T
	env     *kerntest.Env
	netns   string // of its host
	socket  string
	dir     string // where commands run
	clients string // a directory of programs, first in PATH
}

// programs makes a directory of programs by the names that scripts call them.
func programs(t *testing.T, paths map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, path := range paths {
		full, err := exec.LookPath(path)
		if err != nil {
			t.Fatalf("%s is needed: %v", name, err)
		}
		if err := os.Symlink(full, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// dockerd starts a real one on a host of its own.
func dockerd(t *testing.T, env *kerntest.Env, clients string, of func(dockerdtest.Config) dockerdtest.Config) *engine {
	t.Helper()
	e := &engine{t: t, env: env, netns: env.Namespace(t), dir: t.TempDir(), clients: clients}
	e.socket = filepath.Join(e.dir, "docker.sock")
	dockerdtest.New(t, of(dockerdtest.Config{
		Plugin: filepath.Join(e.dir, "no-plugin.sock"), Socket: e.socket,
		Args:  []string{"--bridge", "''"},
		Start: func(cmd *exec.Cmd) error { return env.Do(e.netns, cmd.Start) },
	}))
	e.furnish()
	return e
}

// netd starts ours.
func netd(t *testing.T, env *kerntest.Env, clients string) *engine {
	t.Helper()
	bin := os.Getenv("VETHLOOM_BIN")
	if bin == "" {
		t.Fatal("VETHLOOM_BIN is not set: it names the directory that `make build` fills")
	}
	e := &engine{t: t, env: env, netns: env.Namespace(t), dir: t.TempDir(), clients: clients}
	e.socket = filepath.Join(env.RunDir, "docker.sock")
	log, gone := &bytes.Buffer{}, make(chan error, 1)
	cmd := exec.Command(filepath.Join(bin, "netd"), "--root", t.TempDir(), "--run", env.RunDir, "--http", "",
		"--bridge-netfilter", "off", "--fastpath", kerntest.FastPath())
	cmd.Stderr = log
	if err := env.Do(e.netns, cmd.Start); err != nil {
		t.Fatal(err)
	}
	go func() { gone <- cmd.Wait() }()
	t.Cleanup(func() {
		e.sweep()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := <-gone; err != nil {
			t.Errorf("netd ended with %v", err)
		}
		if t.Failed() {
			t.Logf("log of netd:\n%s", log)
		}
	})
	await.True(t, "netd answers clients of Docker", func() bool {
		select {
		case err := <-gone:
			gone <- err
			t.Fatalf("netd ended: %v\n%s", err, log)
		default:
		}
		return e.run("docker version").code == 0
	})
	e.furnish()
	return e
}

// furnish gives the engine the image bb, and commands the files of testdata and compose as a plugin of docker.
func (e *engine) furnish() {
	e.t.Helper()
	plugins := filepath.Join(e.dir, ".docker/cli-plugins")
	err := errors.Join(os.CopyFS(e.dir, os.DirFS("testdata")), os.MkdirAll(plugins, 0o755),
		os.Symlink(filepath.Join(e.clients, "docker-compose"), filepath.Join(plugins, "docker-compose")))
	if err != nil {
		e.t.Fatal(err)
	}
	rootfs := filepath.Join(e.dir, "rootfs.tar")
	if out, err := exec.Command("tar", "-C", shimtest.Rootfs(e.t), "-cf", rootfs, ".").CombinedOutput(); err != nil {
		e.t.Fatalf("%v: %s", err, out)
	}
	r := e.run(`ip link set lo up; docker import -c 'CMD ["sh"]' rootfs.tar bb`)
	if r.code != 0 {
		e.t.Fatalf("import the image: %+v", r)
	}
}

// sweep removes what a scenario has left, but for the images.
func (e *engine) sweep() {
	e.t.Helper()
	r := e.run(`docker ps -aq | xargs -r docker rm -fv; docker network ls -q --filter type=custom |
		xargs -r docker network rm; docker volume ls -q | xargs -r docker volume rm -f`)
	if r.code != 0 {
		e.t.Errorf("sweep: %+v", r)
	}
}

// result is what a line of a script gave.
type result struct {
	out, err string
	code     int
}

// bound is the longest that one line may take.
const bound = 30 * time.Second

// prelude is what all lines have: `until_says WORDS COMMAND…` repeats a command until its output has the words.
const prelude = `until_says() {
	words=$1; shift
	for i in $(seq 100); do
		"$@" 2>&1 | grep -q -- "$words" && return; sleep 0.05
	done
	echo "never: $words"; "$@"; return 1
}
`

// run runs a line of a script by a shell, on the engine's host.
func (e *engine) run(line string) result {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", prelude+line)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	cmd.Dir = e.dir
	cmd.Env = []string{"PATH=" + e.clients + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"DOCKER_HOST=unix://" + e.socket, "HOME=" + e.dir, "LANG=C.UTF-8", "DOCKER_CLI_HINTS=false"}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := e.env.Do(e.netns, cmd.Run)
	var exit *exec.ExitError
	if ctx.Err() != nil {
		return result{out.String(), errs.String() + fmt.Sprintf("still running after %s", bound), -1}
	}
	if err != nil && !errors.As(err, &exit) {
		return result{out.String(), err.Error(), -1}
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}
