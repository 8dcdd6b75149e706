package docker

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/common"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/vethloom/vethloom/api/server"
	stored "github.com/vethloom/vethloom/engine/image"
)

// message is one of a transfer. Older clients look for an error under its own name.
type message struct {
	jsonstream.Message
	OldError string `json:"error,omitempty"`
}

// say is a stream of messages.
type say struct{ lines }

func messages(w *answer) say { return say{lines{w}} }

func (s say) status(id, text string) error {
	return s.send(message{Message: jsonstream.Message{ID: id, Status: text}})
}

// end ends a stream with an error, if there is one: as a message, when messages were sent before. It has no code:
// clients end with that themselves.
func (s say) end(err error) error {
	if err == nil || !s.w.begun {
		return err
	}
	_ = s.send(message{OldError: wordsOf(err), Message: jsonstream.Message{
		Error: &jsonstream.Error{Message: wordsOf(err)}}})
	return err
}

// words are what Docker calls what is done to a part of a transfer.
var words = map[string]string{
	stored.ActionWaiting: "Waiting", stored.ActionDownloading: "Downloading", stored.ActionUnpacking: "Extracting",
	stored.ActionRetrying: "Retrying", stored.ActionPulled: "Pull complete", stored.ActionExists: "Already exists",
	stored.ActionPushing: "Pushing", stored.ActionMounted: "Mounted", stored.ActionPushed: "Pushed",
	stored.ActionChecking: "Verifying Checksum",
}

func (s say) progress(p stored.Progress) error {
	m := message{Message: jsonstream.Message{ID: shortDigest(p.Part), Status: words[p.Action]}}
	if m.Status == "" {
		m.Status = p.Action
	}
	if p.Text != "" {
		m.Status = p.Text
	}
	switch p.Action {
	case stored.ActionDownloading, stored.ActionPushing, stored.ActionUnpacking:
		m.Progress = &jsonstream.Progress{Current: p.Current, Total: p.Total}
	}
	return s.send(m)
}

// shortDigest is how people know the digest of a layer.
func shortDigest(digest string) string {
	_, hex, _ := strings.Cut(digest, ":")
	return hex[:min(len(hex), 12)]
}

// create pulls an image, or imports one.
func (s imageService) create(w *answer, r *http.Request) error {
	q := r.URL.Query()
	switch {
	case q.Get("fromImage") != "":
		return s.pull(w, r, q.Get("fromImage"), q.Get("tag"))
	case q.Get("fromSrc") == "-":
		return s.importTar(w, r)
	case q.Get("fromSrc") != "":
		return unsupported("fromSrc", q.Get("fromSrc"), "netd fetches no files from the web",
			"send the file: fromSrc=-")
	}
	return invalid("fromImage", "", "is empty", "name an image to be pulled, or give fromSrc=- and a file")
}

func (s imageService) pull(w *answer, r *http.Request, name, tag string) error {
	ref := tagged(name, tag)
	last := ref[strings.LastIndexByte(ref, '/')+1:]
	if !strings.ContainsAny(last, ":@") {
		return unsupported("tag", "", "netd pulls one tag at a time", "name it, such as tag=latest")
	}
	credentials, err := s.credentialsFor(r.Context(), r, ref, false)
	if err != nil {
		return err
	}
	out := messages(w)
	first := true
	var pulled server.PulledImage
	err = server.Reporting(r.Context(), func(p stored.Progress) error {
		if first {
			first = false
			if err := out.status(cmp.Or(tag, "latest"), "Pulling from "+name); err != nil {
				return err
			}
		}
		return out.progress(p)
	}, func(ctx context.Context, report func(stored.Progress)) (err error) {
		pulled, err = s.cfg.Images.PullImage(ctx, server.PullRequest{Reference: ref,
			Platform: r.URL.Query().Get("platform"), Credentials: credentials}, report)
		return err
	})
	if err != nil {
		return out.end(err)
	}
	result := "Status: Image is up to date for "
	if pulled.Newer {
		result = "Status: Downloaded newer image for "
	}
	if err := out.status("", "Digest: "+pulled.Digest); err != nil {
		return err
	}
	return out.status("", result+pulled.Reference)
}

// importTar makes an image of a root file system.
func (s imageService) importTar(w *answer, r *http.Request) error {
	q := r.URL.Query()
	i, err := s.cfg.Images.ImportImage(r.Context(), upload{w, r.Body}, stored.ImportOptions{
		Reference: tagged(q.Get("repo"), q.Get("tag")), Changes: q["changes"], Message: q.Get("message"),
		Platform: q.Get("platform"),
	})
	if err != nil {
		return err
	}
	return messages(w).status("", i.ID)
}

func (s imageService) push(w *answer, r *http.Request) error {
	name := r.PathValue("name")
	tag := r.URL.Query().Get("tag")
	if tag == "" {
		return unsupported("tag", "", "netd pushes one tag at a time", "name it, such as tag=latest")
	}
	ref := tagged(name, tag)
	credentials, err := s.credentialsFor(r.Context(), r, ref, true)
	if err != nil {
		return err
	}
	out := messages(w)
	var pushed server.PushedImage
	err = server.Reporting(r.Context(), func(p stored.Progress) error {
		if p.Action == stored.ActionExists {
			p.Text = "Layer already exists"
		}
		return out.progress(p)
	}, func(ctx context.Context, report func(stored.Progress)) (err error) {
		pushed, err = s.cfg.Images.PushImage(ctx, server.PushRequest{Reference: ref, Credentials: credentials}, report)
		return err
	})
	if err != nil {
		return out.end(err)
	}
	if err := out.status("", fmt.Sprintf("%s: digest: %s size: %d", tag, pushed.Digest, pushed.Size)); err != nil {
		return err
	}
	aux, err := json.Marshal(map[string]any{"Tag": tag, "Digest": pushed.Digest, "Size": pushed.Size})
	if err != nil {
		return err
	}
	return out.send(message{Message: jsonstream.Message{Aux: (*json.RawMessage)(&aux)}})
}

// noPlatform refuses to choose from what an image is there for.
func noPlatform(r *http.Request) error {
	if platform := r.URL.Query().Get("platform"); platform != "" {
		return unsupported("platform", platform, "an image is kept for one platform", "leave it out")
	}
	return nil
}

// load brings in the images of an archive.
func (s imageService) load(w *answer, r *http.Request) error {
	if err := noPlatform(r); err != nil {
		return err
	}
	loaded, err := s.cfg.Images.LoadImages(r.Context(), upload{w, r.Body})
	if err != nil {
		return err
	}
	out := messages(w)
	for _, i := range loaded {
		text := "Loaded image ID: " + i.ID + "\n"
		if len(i.References) > 0 {
			text = ""
		}
		for _, ref := range i.References {
			text += "Loaded image: " + ref + "\n"
		}
		if err := out.send(message{Message: jsonstream.Message{Stream: text}}); err != nil {
			return err
		}
	}
	return nil
}

func (s imageService) saveOne(w *answer, r *http.Request) error {
	return s.save(w, r, []string{r.PathValue("name")})
}

func (s imageService) saveMany(w *answer, r *http.Request) error {
	var names []string
	for _, n := range r.URL.Query()["names"] {
		names = append(names, strings.Split(n, ",")...)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return n == "" })
	if len(names) == 0 {
		return invalid("names", "", "names no image", "name at least one")
	}
	return s.save(w, r, names)
}

func (s imageService) save(w *answer, r *http.Request, names []string) error {
	if err := noPlatform(r); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-tar")
	err := s.cfg.Images.SaveImages(r.Context(), download{w}, names, stored.SaveOptions{})
	w.cut = err != nil && w.begun
	return err
}

// commit makes an image of a container.
func (s imageService) commit(w *answer, r *http.Request) error {
	q := r.URL.Query()
	var c *container.Config
	if err := decode(w, r, &c); err != nil {
		return err
	}
	changes, err := changesOf(c)
	if err != nil {
		return err
	}
	id, err := s.cfg.Containers.Commit(r.Context(), server.CommitRequest{Container: q.Get("container"),
		Reference: tagged(q.Get("repo"), q.Get("tag")), Author: q.Get("author"), Message: q.Get("comment"),
		Changes: append(changes, q["changes"]...), Pause: flagOr(r, "pause", true)})
	if err != nil {
		return err
	}
	return w.json(http.StatusCreated, common.IDResponse{ID: id})
}

// changesOf are the instructions that set what a configuration has, of what can be set by instructions.
func changesOf(c *container.Config) ([]string, error) {
	if c == nil {
		return nil, nil
	}
	var out []string
	list := func(instruction string, args []string) {
		if len(args) > 0 {
			text, _ := json.Marshal(args) // strings can be
			out = append(out, instruction+" "+string(text))
		}
	}
	for _, e := range c.Env {
		name, value, _ := strings.Cut(e, "=")
		out = append(out, "ENV "+name+"="+quoted(value))
	}
	list("CMD", c.Cmd)
	list("ENTRYPOINT", c.Entrypoint)
	for _, one := range []struct{ instruction, value string }{{"WORKDIR", c.WorkingDir}, {"USER", c.User},
		{"STOPSIGNAL", c.StopSignal}} {
		if one.value != "" {
			out = append(out, one.instruction+" "+one.value)
		}
	}
	for port := range c.ExposedPorts {
		out = append(out, "EXPOSE "+port.String())
	}
	for _, dir := range sortedKeys(c.Volumes) {
		list("VOLUME", []string{dir})
	}
	for _, key := range sortedKeys(c.Labels) {
		out = append(out, "LABEL "+quoted(key)+"="+quoted(c.Labels[key]))
	}
	if strings.ContainsAny(strings.Join(out, ""), "\n\r\x00") {
		return nil, invalid("Config", "", "has a line break in it", "leave it out")
	}
	return out, nil
}

func quoted(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`).Replace(s) + `"`
}

// tagged is a name with a tag or a digest; the tag may be missing.
func tagged(name, tag string) string {
	switch {
	case tag == "" || name == "":
		return name
	case strings.Contains(tag, ":"):
		return name + "@" + tag
	}
	return name + ":" + tag
}
