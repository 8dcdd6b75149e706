package docker

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	spec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/storage"
	"github.com/vethloom/vethloom/api/server"
	stored "github.com/vethloom/vethloom/engine/image"
)

type imageService struct{ *Server }

func imageRoutes(srv *Server) []route {
	s := imageService{srv}
	return []route{
		{pattern: "GET /images/json", do: s.list},
		{pattern: "GET /images/search", do: absent("registries are not searched here", "use the registry's page")},
		{pattern: "GET /images/{name}/json", do: s.inspect},
		{pattern: "GET /images/{name}/history", do: s.history},
		{pattern: "GET /images/{name}/attestations", do: absent("attestations of images are not read here", "")},
		{pattern: "POST /images/{name}/tag", do: s.tag},
		{pattern: "DELETE /images/{name}", do: s.remove},
		{pattern: "POST /images/prune", do: s.prune},
		{pattern: "GET /images/get", do: s.saveMany},
		{pattern: "GET /images/{name}/get", do: s.saveOne},
		{pattern: "POST /images/load", do: s.load},
		{pattern: "POST /images/create", do: s.create},
		{pattern: "POST /images/{name}/push", do: s.push},
		{pattern: "POST /commit", do: s.commit},
	}
}

func (s imageService) list(w *answer, r *http.Request) error {
	given, err := filtersOf(r)
	if err != nil {
		return err
	}
	wanted, err := server.MatchImages(r.Context(), s.cfg.Images, given)
	if err != nil {
		return err
	}
	all, err := s.cfg.Images.ListImages(r.Context())
	if err != nil {
		return err
	}
	shared := map[string]int64{}
	if flag(r, "shared-size") {
		u, err := s.cfg.System.DiskUsage(r.Context())
		if err != nil {
			return err
		}
		for _, i := range u.Images {
			shared[i.ID] = i.Shared
		}
	}
	out := []summary{}
	for _, i := range all {
		i, ok := wanted(i)
		if !ok {
			continue
		}
		one := summary{Summary: encodeSummary(i)}
		if size, known := shared[i.ID]; known {
			one.SharedSize = size
		}
		if minor(r) < 43 && len(one.RepoTags)+len(one.RepoDigests) == 0 { // which such a client expects
			one.RepoTags, one.RepoDigests = []string{"<none>:<none>"}, []string{"<none>@<none>"}
		}
		if minor(r) < oneSize {
			one.VirtualSize = one.Size
		}
		out = append(out, one)
	}
	return w.json(http.StatusOK, out)
}

// oneSize is the first version without a size of an image that is another than its size.
const oneSize = 44

// summary is an image in a list. The second size is for older clients.
type summary struct {
	image.Summary
	VirtualSize int64 `json:",omitempty"`
}

func (s imageService) inspect(w *answer, r *http.Request) error {
	i, err := s.cfg.Images.InspectImage(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	out, err := encodeImage(i)
	if err != nil {
		return err
	}
	// docker-compose of Python takes the volumes of an image from its ContainerConfig, and speaks the newest version.
	answered := inspectedImage{InspectResponse: out, ContainerConfig: out.Config}
	if minor(r) < oneSize {
		answered.VirtualSize = &out.Size
	}
	return w.json(http.StatusOK, answered)
}

// inspectedImage is what /images/NAME/json answers, with what newer versions of it do not have any more.
type inspectedImage struct {
	image.InspectResponse
	ContainerConfig any
	VirtualSize     *int64 `json:",omitempty"`
}

func (s imageService) history(w *answer, r *http.Request) error {
	steps, err := s.cfg.Images.ImageHistory(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	out := []image.HistoryResponseItem{}
	for _, h := range steps {
		one := image.HistoryResponseItem{ID: h.Image, Created: seconds(h.Created.Time), CreatedBy: h.CreatedBy,
			Comment: h.Comment, Size: h.Size, Tags: h.References}
		if one.ID == "" {
			one.ID = "<missing>"
		}
		out = append(out, one)
	}
	return w.json(http.StatusOK, out)
}

func (s imageService) tag(w *answer, r *http.Request) error {
	q := r.URL.Query()
	target := tagged(q.Get("repo"), q.Get("tag"))
	if target == "" {
		return invalid("repo", "", "is empty", "give the new name")
	}
	if err := s.cfg.Images.TagImage(r.Context(), r.PathValue("name"), target); err != nil {
		return err
	}
	return w.empty(http.StatusCreated)
}

func (s imageService) remove(w *answer, r *http.Request) error {
	untagged, deleted, err := s.cfg.Images.RemoveImage(r.Context(), r.PathValue("name"), flag(r, "force"))
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, encodeRemoved(untagged, deleted))
}

// prune removes images without a name, or with dangling=false any that no container needs.
func (s imageService) prune(w *answer, r *http.Request) error {
	given, err := filtersOf(r)
	if err != nil {
		return err
	}
	dangling, given := take(given, "dangling")
	due, err := server.MatchPruned(given)
	if err != nil {
		return err
	}
	all := len(dangling) > 0 && (dangling[0] == "false" || dangling[0] == "0")
	p, err := s.cfg.Images.PruneImages(r.Context(), all, func(i stored.Image) bool {
		return due(i.Created, i.Config.Labels)
	})
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, image.PruneReport{ImagesDeleted: encodeRemoved(p.Untagged, p.Deleted),
		SpaceReclaimed: uint64(p.Reclaimed)})
}

func encodeRemoved(untagged, deleted []string) []image.DeleteResponse {
	out := []image.DeleteResponse{}
	for _, ref := range untagged {
		out = append(out, image.DeleteResponse{Untagged: ref})
	}
	for _, id := range deleted {
		out = append(out, image.DeleteResponse{Deleted: id})
	}
	return out
}

func encodeSummary(i stored.Image) image.Summary {
	out := image.Summary{ID: i.ID, Created: seconds(i.Created), Labels: i.Config.Labels, RepoTags: i.References,
		RepoDigests: i.Digests, Size: i.Size, SharedSize: -1, Containers: -1}
	if out.RepoTags == nil {
		out.RepoTags = []string{}
	}
	if out.RepoDigests == nil {
		out.RepoDigests = []string{}
	}
	return out
}

func encodeImage(i stored.Image) (image.InspectResponse, error) {
	var whole spec.DockerOCIImage
	if err := json.Unmarshal(i.Raw, &whole); err != nil && len(i.Raw) > 0 {
		return image.InspectResponse{}, fmt.Errorf("read the configuration of image %s: %w", i.ID, err)
	}
	summary := encodeSummary(i)
	out := image.InspectResponse{
		ID: i.ID, RepoTags: summary.RepoTags, RepoDigests: summary.RepoDigests, Author: i.Author,
		Config: &whole.Config, Architecture: i.Architecture, Variant: i.Variant, Os: i.OS, OsVersion: whole.OSVersion,
		Size: i.Size, GraphDriver: &storage.DriverData{Name: storageDriver, Data: map[string]string{}},
		RootFS: image.RootFS{Type: "layers", Layers: i.Layers}, Metadata: image.Metadata{LastTagTime: i.Added},
	}
	if !i.Created.IsZero() {
		out.Created = i.Created.UTC().Format(time.RFC3339Nano)
	}
	if n := len(whole.History); n > 0 {
		out.Comment = whole.History[n-1].Comment
	}
	return out, nil
}

// seconds since 1970; 0 for the zero time.
func seconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}
