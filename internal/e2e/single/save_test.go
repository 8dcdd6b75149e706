package single

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/api/client"
	"github.com/vethloom/vethloom/engine/shim/shimtest"
	"github.com/vethloom/vethloom/internal/e2e/dockerdtest"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	apiv1 "github.com/vethloom/vethloom/api/v1"
)

// saved has netd write an archive of images.
func (n *node) saved(format string, refs ...string) string {
	t := n.t
	t.Helper()
	c, err := client.Dial(t.Context(), "unix://"+n.sock, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	stream, err := c.Images.Save(t.Context(), &apiv1.SaveRequest{Images: refs, Format: format})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "saved.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return path
		}
		if err == nil {
			_, err = f.Write(m.GetData())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// archived is what an archive says of one image.
type archived struct {
	config, manifest string // digests
	layers           []string
}

// document reads a JSON file of a tar; it is the zero value when it is not there.
func document[T any](t *testing.T, path, name string) (v T) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return v
		}
		if err == nil && filepath.Clean(h.Name) == name {
			err = json.NewDecoder(r).Decode(&v)
			if err == nil {
				return v
			}
		}
		if err != nil {
			t.Fatalf("%s of %s: %v", name, path, err)
		}
	}
}

// readArchive reads what an OCI layout says of its images, by their tags.
func readArchive(t *testing.T, path string) map[string]archived {
	t.Helper()
	out := map[string]archived{}
	for _, d := range document[v1.IndexManifest](t, path, "index.json").Manifests {
		a := archived{manifest: d.Digest.String()}
		m := document[v1.Manifest](t, path, "blobs/sha256/"+d.Digest.Hex)
		for _, l := range m.Layers {
			a.layers = append(a.layers, l.Digest.String())
		}
		a.config = m.Config.Digest.String()
		out[d.Annotations["io.containerd.image.name"]] = a
	}
	return out
}

// withTwo is a node that has bb, and app:1 of two layers, which share the lower one.
func withTwo(t *testing.T, flags ...string) *node {
	t.Helper()
	n := withImage(t, flags...)
	lower := n.saved("docker-archive", "bb")
	m := document[tarball.Manifest](t, lower, "manifest.json")
	raw := document[map[string]any](t, lower, m[0].Config)
	raw["config"] = map[string]any{"Cmd": []string{"cat", "/data/seed"}}
	top := archive(t, tar.Header{Name: "data/", Typeflag: tar.TypeDir}, tar.Header{Name: "data/more"})
	h, _, err := v1.SHA256(strings.NewReader(top))
	if err != nil {
		t.Fatal(err)
	}
	raw["rootfs"] = map[string]any{"type": "layers", "diff_ids": []string{
		"sha256:" + strings.TrimSuffix(m[0].Layers[0], ".tar"), h.String()}}
	config, err := json.Marshal(raw)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := json.Marshal(tarball.Manifest{{Config: "config.json", RepoTags: []string{"app:1"},
		Layers: []string{m[0].Layers[0], "top.tar"}}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "app.tar")
	script := `cp "$1" "$2" && chmod 600 "$2" && tar --delete -f "$2" manifest.json && tar -C "$3" -rf "$2" .`
	dir := t.TempDir()
	for name, data := range map[string]string{"config.json": string(config), "manifest.json": string(manifest),
		"top.tar": top} {
		shimtest.Write(t, filepath.Join(dir, name), data)
	}
	if r := n.call("", nil, "sh", "-ec", script, "sh", lower, path, dir); r.code != 0 {
		t.Fatal(r.err)
	}
	is(t, "load", n.ok("load", "-i", path), "Loaded image: app:1")
	return n
}

// What netd saves is read by skopeo and by Podman, and what they save of it has the same image.
func TestSavedForPodman(t *testing.T) {
	n := withTwo(t)
	both, one, plain := n.saved("", "bb", "app:1"), n.saved("", "app:1"), n.saved("docker-archive", "app:1")
	app := readArchive(t, one)["docker.io/library/app:1"]
	if len(app.layers) != 2 {
		t.Fatalf("app has %+v", app)
	}
	skopeo := func(args ...string) string {
		t.Helper()
		r := n.call("", nil, "skopeo", append([]string{"--insecure-policy"}, args...)...)
		if r.code != 0 {
			t.Fatalf("skopeo %v: %s", args, r.err)
		}
		return r.out
	}
	for _, src := range []string{"oci-archive:" + one, "oci-archive:" + both + ":1", "oci-archive:" +
		n.saved("oci-archive", "app:1")} {
		matches(t, src, skopeo("inspect", "--format", "{{.Digest}} {{.Layers}}", src),
			"^"+app.manifest+` \[`+strings.Join(app.layers, " ")+`\]$`)
	}
	for _, src := range []string{"docker-archive:" + one, "docker-archive:" + both + ":app:1",
		"docker-archive:" + plain} {
		dir := t.TempDir()
		skopeo("copy", "-q", src, "dir:"+dir)
		raw, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
		var m v1.Manifest
		if err == nil {
			err = json.Unmarshal(raw, &m)
		}
		if err != nil || m.Config.Digest.String() != app.config {
			t.Errorf("%s: %v, configuration %s, want %s", src, err, m.Config.Digest, app.config)
		}
	}
	back := filepath.Join(t.TempDir(), "back.tar")
	skopeo("copy", "-q", "oci-archive:"+one, "oci-archive:"+back+":app:1")
	again := newNode(t)
	is(t, "load of what skopeo copied", again.ok("load", "-i", back), "Loaded image: app:1")
	is(t, "saved again", readArchive(t, again.saved("", "app:1"))["docker.io/library/app:1"].manifest, app.manifest)

	p := newPodman(n)
	p.ok("load", "-i", one)
	is(t, "Podman's image", p.ok("image", "inspect", "-f", "sha256:{{.Id}} {{.Digest}}", "app:1"),
		app.config+" "+app.manifest)
	is(t, "its command", p.ok("run", "--rm", "--network", "none", "app:1"), "from the image")
	returns := func(format, name string) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "podman.tar")
		p.ok("save", "--format", format, "-o", path, name)
		short := strings.TrimPrefix(name, "docker.io/library/")
		is(t, "load of Podman's "+format, again.ok("load", "-i", path), "Loaded image: "+short)
		is(t, "its configuration", readArchive(t, again.saved("", short))[name].config, app.config)
	}
	returns("oci-archive", "docker.io/library/app:1")
	p.ok("rmi", "app:1")
	p.ok("load", "-i", both) // several images it takes as Docker's, and those without a host as the local one's
	is(t, "Podman's images", p.ok("image", "inspect", "-f", "sha256:{{.Id}}", "localhost/app:1"), app.config)
	returns("docker-archive", "localhost/app:1")
}

// What netd saves is read by dockerd and by containerd, and what they save of it has the same image.
func TestSavedForDocker(t *testing.T) {
	n := withTwo(t, asksNetd...)
	d := dockerdtest.New(t, dockerdOf(n))
	savedForDocker(n, d)
	both := n.saved("", "bb", "app:1")
	ctr := []string{"-a", filepath.Join(filepath.Dir(d.Dir()), "exec/containerd/containerd.sock"), "-n", "saved"}
	if r := n.call("", nil, "ctr", append(ctr, "images", "import", both)...); r.code != 0 {
		t.Fatal(r.err)
	}
	list := n.call("", nil, "ctr", append(ctr, "images", "ls")...)
	for name, a := range readArchive(t, both) {
		matches(t, "containerd's images", list.out, name+` +\S+ +`+a.manifest)
	}
}

// The same with an engine of today.
func TestSavedForDockerToday(t *testing.T) {
	n := withTwo(t, asksNetd...)
	savedForDocker(n, dockerdtest.New(t, dockerdOf(n).Current(t)))
}

func savedForDocker(n *node, d *dockerdtest.Dockerd) {
	t := n.t
	t.Helper()
	both := n.saved("", "bb", "app:1")
	app := readArchive(t, both)["docker.io/library/app:1"]
	for _, path := range []string{both, n.saved("docker-archive", "app:1")} {
		matches(t, "docker load", d.Docker("load", "-i", path), "Loaded image: app:1")
		// Docker names an image by its configuration, or by its manifest when containerd keeps it.
		if id := d.Docker("image", "inspect", "-f", "{{.Id}}", "app:1"); path == both && id != app.config &&
			id != app.manifest {
			t.Errorf("docker has the image %s, want that of %+v", id, app)
		}
		back := filepath.Join(t.TempDir(), "back.tar")
		d.Docker("save", "-o", back, "app:1")
		is(t, "load of Docker's", n.ok("load", "-i", back), "Loaded image: app:1")
		is(t, "its configuration", readArchive(t, n.saved("", "app:1"))["docker.io/library/app:1"].config, app.config)
		if path == both {
			d.Docker("rmi", "app:1")
		}
	}
	is(t, "its command", d.Docker("run", "--rm", "--network", "none", "app:1"), "from the image")
}
