package docker

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"

	"github.com/vethloom/vethloom/api/server"
)

// maxCredentials is how long what a client has for registries may be, in bytes.
const maxCredentials = 64 << 10

// buildRoutes are those of builds by way of a tar, as clients without BuildKit's sessions ask for them.
func buildRoutes(srv *Server) []route {
	s := imageService{srv}
	return []route{{pattern: "POST /build", do: s.build, lasts: true}}
}

// build builds an image and streams what the builder says. The text that it ends with is what older libraries take
// the image's ID from.
func (s imageService) build(w *answer, r *http.Request) error {
	if s.cfg.Builds == nil {
		return unsupported("path", r.URL.Path, "this netd builds no images", "build with 'net build'")
	}
	req, err := buildRequest(r)
	if err != nil {
		return err
	}
	out := &buildOutput{say: messages(w), quiet: flag(r, "q")}
	if err := w.control.EnableFullDuplex(); err != nil { // the context is read while progress is told
		return fmt.Errorf("read the context: %w", err)
	}
	if err := out.open(); err != nil { // a build may be silent for long, and clients wait for an answer
		return err
	}
	id, err := s.cfg.Builds.BuildImage(r.Context(), req, upload{w, r.Body}, out)
	if err != nil {
		if tail := out.rest(); out.quiet && len(tail) > 0 {
			_ = out.stream(string(tail))
		}
		return out.end(err)
	}
	if err := out.aux(id); err != nil {
		return err
	}
	if out.quiet {
		return out.stream(id + "\n")
	}
	if err := out.stream("Successfully built " + shortDigest(id) + "\n"); err != nil {
		return err
	}
	for _, t := range req.Tags {
		if err := out.stream("Successfully tagged " + t + "\n"); err != nil {
			return err
		}
	}
	return nil
}

// buildOutput makes messages of what a builder says. It is written to by one goroutine at a time.
type buildOutput struct {
	say
	quiet bool
	kept  []byte // of a quiet build: the end of what was said, for one that fails
}

// maxKept is how much of what a quiet build says is kept, in bytes.
const maxKept = 64 << 10

// Write implements [io.Writer].
func (o *buildOutput) Write(b []byte) (int, error) {
	if o.quiet {
		o.kept = append(o.kept, b...)
		if over := len(o.kept) - maxKept; over > 0 {
			o.kept = append(o.kept[:0], o.kept[over:]...)
		}
		return len(b), nil
	}
	return len(b), o.stream(string(bytes.ToValidUTF8(b, []byte("?"))))
}

func (o *buildOutput) rest() []byte { return bytes.ToValidUTF8(o.kept, []byte("?")) }

func (o *buildOutput) stream(text string) error {
	return o.send(message{Message: jsonstream.Message{Stream: text}})
}

// aux tells the image's ID to clients that read it from there.
func (o *buildOutput) aux(id string) error {
	b, err := json.Marshal(struct{ ID string }{id})
	if err != nil {
		return err
	}
	return o.send(message{Message: jsonstream.Message{Aux: (*json.RawMessage)(&b)}})
}

// buildRequest reads the query of a build. What it says about the builder's own containers (memory, cpus and the like)
// and about what it leaves of them has no meaning with BuildKit, and is passed over.
func buildRequest(r *http.Request) (server.BuildRequest, error) {
	q := r.URL.Query()
	out := server.BuildRequest{
		Remote: q.Get("remote"), Dockerfile: q.Get("dockerfile"), Tags: q["t"], Target: q.Get("target"),
		Platform: q.Get("platform"), Network: q.Get("networkmode"), NoCache: flag(r, "nocache"), Pull: flag(r, "pull"),
	}
	switch {
	case q.Get("version") == "2":
		return out, unsupported("version", "2", "builds with BuildKit's sessions are not served here",
			"set DOCKER_BUILDKIT=0, or build with 'net build'")
	case flag(r, "squash"):
		return out, unsupported("squash", "true", "layers are not squashed here", "leave it out")
	case q.Get("outputs") != "" && q.Get("outputs") != "[]" && q.Get("outputs") != "null":
		return out, unsupported("outputs", q.Get("outputs"), "an image is all that comes out", "use 'net build -o'")
	case path.IsAbs(out.Dockerfile) || out.Dockerfile == "-" || strings.HasPrefix(path.Clean(out.Dockerfile), ".."):
		return out, invalid("dockerfile", out.Dockerfile, "is not in the context", "give a path in it")
	}
	if out.Network == "bridge" {
		out.Network = "default"
	}
	for name, into := range map[string]*[]string{"buildargs": &out.Args, "labels": &out.Labels} {
		if err := pairs(q.Get(name), name, into); err != nil {
			return out, err
		}
	}
	if err := parameter(q.Get("cachefrom"), "cachefrom", &out.CacheFrom); err != nil {
		return out, err
	}
	for _, hosts := range q["extrahosts"] { // one each, or a list in one
		out.ExtraHosts = append(out.ExtraHosts, strings.FieldsFunc(hosts, func(c rune) bool { return c == ',' })...)
	}
	return out, buildCredentials(r, &out)
}

// parameter reads a parameter that is JSON.
func parameter(text, name string, into any) error {
	if text == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		return invalid(name, text, "is not the JSON that it should be: "+err.Error(), "see the reference of the API")
	}
	return nil
}

// pairs reads an object of strings as NAME=VALUE. An argument without a value takes none from netd's environment.
func pairs(text, name string, into *[]string) error {
	var values map[string]*string
	if err := parameter(text, name, &values); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if v := values[key]; v != nil {
			*into = append(*into, key+"="+*v)
		}
	}
	return nil
}

// buildCredentials reads what a client has for registries, by their addresses.
func buildCredentials(r *http.Request, into *server.BuildRequest) error {
	text := r.Header.Get("X-Registry-Config")
	if text == "" {
		return nil
	}
	data, err := base64.URLEncoding.DecodeString(text)
	if err != nil {
		data, err = base64.StdEncoding.DecodeString(text)
	}
	var byHost map[string]registry.AuthConfig
	if err == nil && len(data) <= maxCredentials {
		err = json.Unmarshal(data, &byHost)
	}
	if err != nil || len(data) > maxCredentials {
		return invalid("X-Registry-Config", "", "is not JSON in base64", "send credentials by registry, or nothing")
	}
	for _, address := range slices.Sorted(maps.Keys(byHost)) {
		into.Credentials = append(into.Credentials, credential(registryHost(address), byHost[address]))
	}
	return nil
}
