package docker_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
	"github.com/vethloom/vethloom/api/server/fake"
	"github.com/vethloom/vethloom/engine"
	creds "github.com/vethloom/vethloom/engine/registry"
)

// said reads a stream of messages to its end.
func said(t *testing.T, r io.Reader) (lines []string) {
	t.Helper()
	for d := json.NewDecoder(r); ; {
		var m jsonstream.Message
		err := d.Decode(&m)
		if errors.Is(err, io.EOF) {
			return lines
		}
		if err != nil {
			t.Fatal(err)
		}
		line := strings.TrimSpace(strings.TrimPrefix(m.ID+": "+m.Status, ": ") + m.Stream)
		if m.Error != nil {
			line = "error: " + m.Error.Message
		}
		if m.Progress != nil && m.Progress.Total > 0 {
			line += " …"
		}
		if m.Aux != nil {
			line = "aux: " + string(*m.Aux)
		}
		lines = append(lines, line)
	}
}

func auth(a registry.AuthConfig) string {
	text, err := json.Marshal(a)
	if err != nil {
		panic(err)
	}
	return base64.URLEncoding.EncodeToString(text)
}

func TestPull(t *testing.T) {
	d := fake.New()
	c, _ := serve(t, d)
	const name = "registry.test/team/app:1"
	_, err := c.ImagePull(t.Context(), name, client.ImagePullOptions{})
	if !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "it wants a login") {
		t.Errorf("without a credential: %v", err)
	}
	// What the client says of the registry's address does not matter: the credential is for the image's.
	o := client.ImagePullOptions{RegistryAuth: auth(registry.AuthConfig{Username: "ann", Password: "secret",
		ServerAddress: "https://elsewhere.test/v1/"})}
	r, err := c.ImagePull(t.Context(), name, o)
	if err != nil {
		t.Fatal(err)
	}
	lines := said(t, r)
	r.Close()
	for _, want := range []string{"1: Pulling from registry.test/team/app", "00000000abc0: Already exists",
		"00000000abc1: Downloading …", "00000000abc1: Extracting …", "00000000abc2: Pull complete",
		"Digest: sha256:" + strings.Repeat("d1", 32), "Status: Downloaded newer image for " + name} {
		if !slices.Contains(lines, want) {
			t.Errorf("no %q in\n%s", want, strings.Join(lines, "\n"))
		}
	}
	if diff := cmp.Diff([]creds.Credential{{Host: "registry.test", Username: "ann", Password: "secret"}},
		d.Seen()); diff != "" {
		t.Error(diff)
	}
	if r, err = c.ImagePull(t.Context(), name, o); err != nil {
		t.Fatal(err)
	}
	if lines = said(t, r); lines[len(lines)-1] != "Status: Image is up to date for "+name {
		t.Errorf("pulled twice: %q", lines)
	}
	r.Close()
	_, err = c.ImagePull(t.Context(), "registry.test/nosuch", client.ImagePullOptions{})
	if !errdefs.IsNotFound(err) {
		t.Errorf("an image that there is not: %v", err)
	}
	_, err = c.ImagePull(t.Context(), name, client.ImagePullOptions{RegistryAuth: "no base64!"})
	if !errdefs.IsInvalidArgument(err) || strings.Contains(err.Error(), "no base64!") {
		t.Errorf("a credential that is none: %v", err)
	}
	_, err = c.ImagePull(t.Context(), name, client.ImagePullOptions{All: true})
	if !errdefs.IsNotImplemented(err) {
		t.Errorf("all tags: %v", err)
	}
}

func TestPush(t *testing.T) {
	d := fake.New()
	c, _ := serve(t, d)
	o := client.ImagePushOptions{RegistryAuth: auth(registry.AuthConfig{IdentityToken: "secret"})}
	if _, err := c.ImageTag(t.Context(), client.ImageTagOptions{Source: "busybox",
		Target: "registry.test/bb:1"}); err != nil {
		t.Fatal(err)
	}
	r, err := c.ImagePush(t.Context(), "registry.test/bb:1", o)
	if err != nil {
		t.Fatal(err)
	}
	lines := said(t, r)
	r.Close()
	digest := "sha256:" + strings.Repeat("d2", 32)
	for _, want := range []string{"00000000abc0: Layer already exists", "00000000abc1: Pushing …",
		"00000000abc1: Pushed", "1: digest: " + digest + " size: 428",
		`aux: {"Digest":"` + digest + `","Size":428,"Tag":"1"}`} {
		if !slices.Contains(lines, want) {
			t.Errorf("no %q in\n%s", want, strings.Join(lines, "\n"))
		}
	}
	if got := d.Seen(); len(got) != 1 || got[0].Host != "registry.test" || got[0].IdentityToken != "secret" {
		t.Errorf("%#v", got)
	}
	_, err = c.ImagePush(t.Context(), "registry.test/nosuch:1", o)
	if !errdefs.IsNotFound(err) {
		t.Errorf("an image that there is not: %v", err)
	}
}

func TestLogin(t *testing.T) {
	d := fake.New()
	c, _ := serve(t, d)
	for address, host := range map[string]string{"https://index.docker.io/v1/": "docker.io", "": "docker.io",
		"registry.test:5000": "registry.test:5000", "http://registry.test/v2": "registry.test"} {
		o := client.RegistryLoginOptions{Username: "ann", Password: "secret", ServerAddress: address}
		r, err := c.RegistryLogin(t.Context(), o)
		if err != nil || r.Auth.Status != "Login Succeeded" || d.Seen()[0].Host != host {
			t.Errorf("%s: %+v, %v, %v", address, r, err, d.Seen())
		}
		o.Password = "wrong"
		if _, err := c.RegistryLogin(t.Context(), o); !errdefs.IsUnauthorized(err) {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestImages(t *testing.T) {
	c, plain := serve(t, fake.New())
	one, err := c.ImageInspect(t.Context(), "busybox")
	if err != nil {
		t.Fatal(err)
	}
	if one.RepoTags[0] != "busybox:latest" || one.Config.Cmd[0] != "sh" || one.Config.Healthcheck.Test[1] != "true" ||
		one.Os != "linux" || one.Architecture != "amd64" || one.Created != "2026-01-31T12:00:00Z" ||
		one.Size != 4_260_000 {
		t.Errorf("%+v", one)
	}
	loaded, err := c.ImageLoad(t.Context(), strings.NewReader("app:1 other:2 -"))
	if err != nil {
		t.Fatal(err)
	}
	lines := said(t, loaded)
	loaded.Close()
	if len(lines) != 3 || lines[1] != "Loaded image: other:2" ||
		!strings.HasPrefix(lines[2], "Loaded image ID: sha256:") {
		t.Errorf("%q", lines)
	}
	for filter, want := range map[string]string{
		"": "busybox:latest app:1 other:2 <none>", "reference=app": "app:1", "dangling=true": "<none>",
		"dangling=0": "busybox:latest app:1 other:2", "label=x": "",
	} {
		f := client.Filters{}
		if key, value, ok := strings.Cut(filter, "="); ok {
			f = f.Add(key, value)
		}
		all, err := c.ImageList(t.Context(), client.ImageListOptions{Filters: f, SharedSize: true})
		if err != nil {
			t.Errorf("%s: %v", filter, err)
		}
		var names []string
		for _, i := range all.Items {
			names = append(names, append(i.RepoTags, "<none>")[0])
			if i.SharedSize != i.Size/4 {
				t.Errorf("%s: shared size %d of %d", filter, i.SharedSize, i.Size)
			}
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: got %q, want %q", filter, got, want)
		}
	}
	old := get(t, plain, "/v1.41/images/json?filters="+`{"dangling":{"true":true}}`)
	if !strings.Contains(old, `"RepoTags":["<none>:<none>"]`) ||
		!strings.Contains(old, `"RepoDigests":["<none>@<none>"]`) {
		t.Errorf("for an old client: %s", old)
	}
	p, err := c.ImagePrune(t.Context(), client.ImagePruneOptions{})
	if err != nil || len(p.Report.ImagesDeleted) != 1 {
		t.Errorf("%+v, %v", p, err)
	}
	gone, err := c.ImageRemove(t.Context(), "app:1", client.ImageRemoveOptions{})
	if err != nil || len(gone.Items) != 2 || gone.Items[0].Untagged != "app:1" {
		t.Errorf("%+v, %v", gone, err)
	}
	p, err = c.ImagePrune(t.Context(), client.ImagePruneOptions{Filters: client.Filters{}.Add("dangling", "false")})
	if err != nil || p.Report.SpaceReclaimed != 4_260_000 {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err = c.ImageInspect(t.Context(), "busybox"); !errdefs.IsNotFound(err) {
		t.Errorf("an image that is gone: %v", err)
	}
}

func TestSaveAndImport(t *testing.T) {
	d := fake.New()
	c, plain := serve(t, d)
	r, err := c.ImageSave(t.Context(), []string{"busybox"})
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	r.Close()
	if err != nil || string(data) != "busybox:latest\n" {
		t.Errorf("%q, %v", data, err)
	}
	if got := get(t, plain, "/images/busybox/get"); got != "busybox:latest\n" {
		t.Errorf("%q", got)
	}
	// What follows an archive's beginning is no message: the connection ends, so that nobody takes it for the whole.
	answer, err := plain.Get("http://docker/images/get?names=busybox&names=nosuch")
	if err == nil {
		data, err = io.ReadAll(answer.Body)
		answer.Body.Close()
	}
	if err == nil {
		t.Errorf("an archive that is not whole: %q", data)
	}
	made, err := c.ImageImport(t.Context(), client.ImageImportSource{Source: strings.NewReader("tar…"),
		SourceName: "-"}, "registry.test/base:2", client.ImageImportOptions{Message: "by hand"})
	if err != nil {
		t.Fatal(err)
	}
	lines := said(t, made)
	made.Close()
	i, err := c.ImageInspect(t.Context(), "registry.test/base:2")
	if err != nil || len(lines) != 1 || lines[0] != i.ID {
		t.Errorf("%q, %+v, %v", lines, i, err)
	}
	_, err = c.ImageImport(t.Context(), client.ImageImportSource{Source: strings.NewReader("zip"), SourceName: "-"}, "",
		client.ImageImportOptions{})
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("no archive: %v", err)
	}
	_, err = c.ImageImport(t.Context(), client.ImageImportSource{SourceName: "http://x.test/y.tar"}, "",
		client.ImageImportOptions{})
	if !errdefs.IsNotImplemented(err) {
		t.Errorf("from the web: %v", err)
	}
	if _, err := c.ImageSearch(t.Context(), "x", client.ImageSearchOptions{}); !errdefs.IsNotImplemented(err) {
		t.Errorf("search: %v", err)
	}
}

func TestHistory(t *testing.T) {
	c, _ := serve(t, fake.New())
	h, err := c.ImageHistory(t.Context(), "busybox")
	if err != nil || len(h.Items) != 2 {
		t.Fatalf("%+v, %v", h, err)
	}
	i, err := c.ImageInspect(t.Context(), "busybox")
	want := image.HistoryResponseItem{ID: i.ID, Created: fake.Epoch.Unix(), CreatedBy: `CMD ["sh"]`, Comment: "why",
		Tags: []string{"busybox:latest"}}
	if diff := cmp.Diff(want, h.Items[0]); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	if h.Items[1].ID != "<missing>" || h.Items[1].Size != i.Size {
		t.Errorf("%+v", h.Items[1])
	}
}

func TestCommit(t *testing.T) {
	d := fake.New()
	c, _ := serve(t, d)
	if _, _, err := d.Create(t.Context(), engine.Spec{Name: "app", Image: "busybox"}); err != nil {
		t.Fatal(err)
	}
	made, err := c.ContainerCommit(t.Context(), "app", client.ContainerCommitOptions{Reference: "registry.test/mine:3",
		Author: "ann", Comment: "as it is", Config: &container.Config{Env: []string{`A="$b`}, Cmd: []string{"a", "b"},
			Labels: map[string]string{"k": "v w"}, User: "1", Volumes: map[string]struct{}{"/data": {}}}})
	if err != nil {
		t.Fatal(err)
	}
	i, err := c.ImageInspect(t.Context(), "registry.test/mine:3")
	if err != nil || i.ID != made.ID || i.Author != "ann" {
		t.Errorf("%+v, %v", i, err)
	}
	want := []string{`ENV A="\"\$b"`, `CMD ["a","b"]`, "USER 1", `VOLUME ["/data"]`, `LABEL "k"="v w"`}
	if diff := cmp.Diff(want, d.Committed().Changes); diff != "" {
		t.Error(diff)
	}
	_, err = c.ContainerCommit(t.Context(), "nosuch", client.ContainerCommitOptions{})
	if !errdefs.IsNotFound(err) {
		t.Errorf("a container that there is not: %v", err)
	}
	_, err = c.ContainerCommit(t.Context(), "app", client.ContainerCommitOptions{Config: &container.Config{
		Env: []string{"A=b\nRUN x"}}})
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("a line break: %v", err)
	}
}

// get is the body of an answer that is good.
func get(t *testing.T, c *http.Client, path string) string {
	t.Helper()
	r, err := c.Get("http://docker" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(r.Body); err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v: %s", path, r.Status, err, b.String())
	}
	return b.String()
}
