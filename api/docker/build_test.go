package docker_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/api/server/fake"
	creds "github.com/vethloom/vethloom/engine/registry"
)

func build(t *testing.T, c *client.Client, o client.ImageBuildOptions) string {
	t.Helper()
	res, err := c.ImageBuild(t.Context(), strings.NewReader("a tar"), o)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestImagesAreBuilt(t *testing.T) {
	d := fake.New()
	c, _ := serve(t, d)
	two, none := "2", (*string)(nil)
	out := build(t, c, client.ImageBuildOptions{Tags: []string{"mine:1", "mine:2"}, Dockerfile: "app/Dockerfile",
		BuildArgs: map[string]*string{"A": &two, "B": none}, Labels: map[string]string{"l": "x"}, NoCache: true,
		PullParent: true, Target: "tools", NetworkMode: "bridge", ExtraHosts: []string{"db:192.0.2.7"},
		CacheFrom:   []string{"base:1"},
		AuthConfigs: map[string]registry.AuthConfig{"https://index.docker.io/v1/": {Username: "ann", Password: "p"}}})
	want := server.BuildRequest{Dockerfile: "app/Dockerfile", Tags: []string{"mine:1", "mine:2"}, Args: []string{"A=2"},
		Target: "tools", Network: "default", Labels: []string{"l=x"}, ExtraHosts: []string{"db:192.0.2.7"},
		CacheFrom: []string{"base:1"}, NoCache: true, Pull: true,
		Credentials: []creds.Credential{{Host: "docker.io", Username: "ann", Password: "p"}}}
	if got := d.LastBuild(); !reflect.DeepEqual(got, want) {
		t.Errorf("asked for %+v\nwant      %+v", got, want)
	}
	for _, part := range []string{`{"stream":"#1 [1/1] FROM base\n"}`, `{"aux":{"ID":"sha256:`,
		`{"stream":"Successfully built `, `{"stream":"Successfully tagged mine:1\n"}`} {
		if !strings.Contains(out, part) {
			t.Errorf("the stream has no %s: %s", part, out)
		}
	}
}

func TestABuildThatFailsSaysWhy(t *testing.T) {
	c, _ := serve(t, fake.New())
	for _, quiet := range []bool{false, true} {
		out := build(t, c, client.ImageBuildOptions{Target: "bad", SuppressOutput: quiet})
		if !strings.Contains(out, `FROM base\n`) ||
			!strings.Contains(out, `"error":"the build failed: exit status 1"`) {
			t.Errorf("quiet %t: %s", quiet, out)
		}
	}
	if out := build(t, c, client.ImageBuildOptions{SuppressOutput: true}); strings.Contains(out, "FROM") {
		t.Errorf("a quiet build says %s", out)
	}
}

// A build ends with the client that asked for it.
func TestABuildEndsWithItsClient(t *testing.T) {
	d := fake.New()
	c, _ := serve(t, d)
	ctx, cancel := context.WithCancel(t.Context())
	res, err := c.ImageBuild(ctx, strings.NewReader("a tar"), client.ImageBuildOptions{Target: "slow"})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	cancel()
	if _, err := io.ReadAll(res.Body); !errors.Is(err, context.Canceled) {
		t.Errorf("reading on: %v", err)
	}
} // the server would not stop while the build goes on

func TestBuildsThatCannotBe(t *testing.T) {
	_, plain := serve(t, fake.New())
	for query, want := range map[string]string{
		"version=2":              "501 DOCKER_BUILDKIT=0",
		"squash=1":               "501 squash",
		"outputs=[{}]":           "501 net build -o",
		"dockerfile=/etc/passwd": "400 in the context",
		"dockerfile=../x":        "400 in the context",
		"dockerfile=-":           "400 in the context",
		"buildargs=nothing":      "400 buildargs",
		"labels=[]":              "400 labels",
		"cachefrom={}":           "400 cachefrom",
	} {
		res, err := plain.Post("http://docker/build?"+query, "application/x-tar", strings.NewReader("a tar"))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		status, text, _ := strings.Cut(want, " ")
		if err != nil || !strings.HasPrefix(res.Status, status) || !strings.Contains(string(b), text) {
			t.Errorf("%s: %s %s %v, want %s", query, res.Status, b, err, want)
		}
	}
	r, err := http.NewRequest("POST", "http://docker/build", strings.NewReader("a tar"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Registry-Config", "no base64!")
	res, err := plain.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusBadRequest {
		t.Errorf("garbage credentials: %s", res.Status)
	}
}
