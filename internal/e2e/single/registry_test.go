package single

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vethloom/vethloom/engine/shim/shimtest"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/registrytest"
)

// debian starts a docker-registry on the node, with TLS and a password.
func (n *node) debian(o registrytest.DebianOptions) (r *registrytest.Process) {
	n.t.Helper()
	if err := n.Do("", func() error { r = registrytest.Debian(n.t, o); return nil }); err != nil {
		n.t.Fatal(err)
	}
	return r
}

// An image is made of a container, goes to a registry with TLS and a password, and comes back from there: byte for
// byte, for us and for skopeo.
func TestRegistryThereAndBack(t *testing.T) {
	certs := t.TempDir()
	n := withImage(t, "--registry-dirs", certs, "--registries-conf", filepath.Join(certs, "none"))
	r := n.debian(registrytest.DebianOptions{TLS: true, User: "ada", Password: "engine"})
	name := r.Host + "/team/app:1"
	n.ok("run", "-d", "--name", "c", "--network", "none", "bb", "sh", "-c",
		"echo made > /made; rm /etc/passwd; sleep 1000")
	n.eventually("the container has done its work", func() bool {
		return n.net("exec", "c", "sh", "-c", "test -e /made && ! test -e /etc/passwd").code == 0
	})
	is(t, "what it changed", n.ok("changes", "c"), "C /etc\nD /etc/passwd\nA /made")
	id := n.ok("commit", "-a", "Ada", "-m", "made here", "-c", "ENV GREETING=hello", "c", name)
	is(t, "it runs on", n.ok("inspect", "-f", "{{.State.Status}}", "c"), "running")

	n.refuses(refusal{"push -q " + name, 1, `certificate is not trusted.*ca\.crt`})
	registrytest.Write(t, r.CA.PEM, certs, r.Host, "ca.crt")
	n.refuses(refusal{"push -q " + name, 1, `wants a login.*net login ` + r.Host})
	n.refuses(refusal{"login -u ada -p engine " + r.Host, 1, `--password-stdin`})
	config := t.TempDir()
	env := []string{"DOCKER_CONFIG=" + config}
	login := n.call("wrong\n", env, program(t, "net"), "--host", "unix://"+n.sock, "login", "-u", "ada",
		"--password-stdin", r.Host)
	if login.code != 1 || !strings.Contains(login.err, "does not take the credential") {
		t.Errorf("a wrong password: %d, %s", login.code, login.err)
	}
	cli := func(input string, args ...string) string {
		t.Helper()
		got := n.call(input, env, program(t, "net"), append([]string{"--host", "unix://" + n.sock}, args...)...)
		if got.code != 0 {
			t.Fatalf("net %q: %d, %s", args, got.code, got.err)
		}
		return strings.TrimSpace(got.out)
	}
	cli("engine\n", "login", "-u", "ada", "--password-stdin", r.Host)
	st, err := os.Stat(filepath.Join(config, "config.json"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the file with the password: %v, %v", st, err)
	}
	digest := cli("", "push", "-q", name)
	if strings.Contains(n.log.String(), "engine") {
		t.Error("the password is in netd's log")
	}
	copied := t.TempDir()
	n.Run("skopeo", "copy", "-q", "--src-creds", "ada:engine", "--src-cert-dir", filepath.Join(certs, r.Host),
		"docker://"+name, "dir:"+copied)
	var m struct {
		Config struct{ Digest string }
		Layers []struct{ Digest string }
	}
	raw, err := os.ReadFile(filepath.Join(copied, "manifest.json"))
	if err == nil {
		err = json.Unmarshal(raw, &m)
	}
	if err != nil || m.Config.Digest != id || len(m.Layers) != 2 {
		t.Errorf("skopeo has %s, %v", raw, err)
	}

	n.ok("rm", "-f", "c")
	n.ok("rmi", name)
	n.ok("rmi", "bb")
	is(t, "what is left", n.Sh("find "+n.root+"/images -type f"), "")
	n.refuses(refusal{"run --rm --pull never " + name, 125, `no such image`})
	is(t, "what it says", cli("", "run", "--rm", "-q", "--network", "none", name, "sh", "-c",
		"cat /made; test -e /etc/passwd || echo $GREETING"), "made\nhello")
	is(t, "ID", n.ok("images", "-q", "--no-trunc"), id)
	matches(t, "digest", n.ok("images", "--digests"), digest)
	matches(t, "history", n.ok("history", name), `made here`)
	is(t, "once more", cli("", "pull", "-q", name), id)
	n.ok("rmi", name)
	cli("", "pull", r.Host+"/team/app@"+digest)
	n.ok("rmi", id)
	cli("", "logout", r.Host)
	n.refuses(refusal{"pull -q " + name, 1, `login`}, refusal{"run -q " + name, 125, `login`})
}

// A pull that netd was killed in goes on where it was, and what is damaged is found and repaired.
func TestPullOverDamage(t *testing.T) {
	n := newNode(t)
	var r *registrytest.Server
	if err := n.Do("", func() error { r = registrytest.Serve(t, registrytest.Options{}); return nil }); err != nil {
		t.Fatal(err)
	}
	name := r.Host + "/app:1"
	dir := t.TempDir()
	n.Sh("cp -a " + shimtest.Rootfs(t) + "/. " + dir + " && head -c 3000000 /dev/urandom > " + dir + "/big")
	n.Sh("tar -C " + dir + " -c . > " + dir + ".tar")
	id := n.ok("import", "-c", `CMD ["sh"]`, dir+".tar", name)
	n.ok("push", "-q", name)
	layer := strings.TrimSpace(n.Sh("ls -S " + n.root + "/images/blobs/sha256 | head -1"))
	n.ok("rmi", name)

	r.Fail(registrytest.Fault{Path: "/blobs/sha256:" + layer, Method: "GET", At: 1 << 20, Stall: true})
	pull := n.session(nil, "pull", name)
	n.eventually("a part of the layer is here", func() bool {
		return n.Sh("find "+n.root+"/images/ingest -size +900k") != ""
	})
	n.end(syscall.SIGKILL)
	await.From(t, "the pull of a netd that was killed ends", pull.code)
	r.Heal()
	n.start()
	is(t, "half-done things", n.Sh("ls "+n.root+"/images/tmp"), "")
	before := len(r.Requests())
	is(t, "the pull that goes on", n.ok("pull", "-q", name), id)
	ranged := false
	for _, q := range r.Requests()[before:] {
		ranged = ranged || strings.HasPrefix(q.Header.Get("Range"), "bytes=")
	}
	if !ranged {
		t.Error("nothing of what was fetched before was used")
	}
	n.ok("system", "check")
	n.Sh("echo damage > $(find " + n.root + "/images/layers -name big)")
	finds := func(want string) {
		t.Helper()
		got := n.net("system", "check")
		matches(t, "what is found", got.out, want)
		if got.code != 1 {
			t.Errorf("the check ends with %d", got.code)
		}
	}
	finds(`layer sha256:`)
	n.ok("system", "check", "--repair")
	n.ok("system", "check")
	n.Sh("f=$(find " + n.root + "/images/blobs -size +900k); printf x | dd of=$f bs=1 seek=5000 conv=notrunc " +
		"2>/dev/null")
	finds(`blob sha256:`)
	n.refuses(refusal{"save -o " + dir + "/saved.tar " + name, 1, `has changed since`})
	n.net("system", "check", "--repair")
	n.ok("pull", "-q", name)
	n.ok("system", "check")
	n.ok("run", "--rm", "--network", "none", name, "test", "-s", "/big")
	n.ok("rmi", name)
	n.ok("system", "prune", "-f")
	is(t, "what is left", n.Sh("find "+n.root+"/images -type f"), "")
}
