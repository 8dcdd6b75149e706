package docker

import (
	"errors"
	"net/http"
	"time"

	"github.com/moby/moby/api/types/volume"
	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	data "github.com/vethloom/vethloom/engine/volume"
)

type volumeService struct{ volumes server.Volumes }

func volumeRoutes(srv *Server) []route {
	s := volumeService{srv.cfg.Volumes}
	return []route{
		{pattern: "GET /volumes", do: s.list},
		{pattern: "POST /volumes/create", do: s.create},
		{pattern: "POST /volumes/prune", do: s.prune},
		{pattern: "GET /volumes/{name}", do: s.inspect},
		{pattern: "PUT /volumes/{name}", do: noSwarm}, // changes those of a cluster
		{pattern: "DELETE /volumes/{name}", do: s.remove},
	}
}

func (s volumeService) list(w *answer, r *http.Request) error {
	given, err := filtersOf(r)
	if err != nil {
		return err
	}
	wanted, err := server.MatchVolumes(given)
	if err != nil {
		return err
	}
	all, err := s.volumes.ListVolumes(r.Context())
	if err != nil {
		return err
	}
	out := volume.ListResponse{Volumes: []volume.Volume{}, Warnings: []string{}}
	for _, v := range all {
		if wanted(v) {
			out.Volumes = append(out.Volumes, encodeVolume(v))
		}
	}
	return w.json(http.StatusOK, out)
}

func (s volumeService) create(w *answer, r *http.Request) error {
	var c volume.CreateRequest
	if err := decode(w, r, &c); err != nil {
		return err
	}
	switch {
	case c.Driver != "" && c.Driver != data.LocalDriver:
		return invalid("Driver", c.Driver, "there is no volume driver of this name", "use "+data.LocalDriver)
	case c.ClusterVolumeSpec != nil:
		return noSwarm(w, r)
	}
	v, err := s.volumes.CreateVolume(r.Context(), data.Request{Name: c.Name, Driver: c.Driver, Options: c.DriverOpts,
		Labels: c.Labels})
	if err != nil {
		return err
	}
	return w.json(http.StatusCreated, encodeVolume(v))
}

func (s volumeService) inspect(w *answer, r *http.Request) error {
	v, err := s.volumes.InspectVolume(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, encodeVolume(v))
}

func (s volumeService) remove(w *answer, r *http.Request) error {
	err := s.volumes.RemoveVolume(r.Context(), r.PathValue("name"))
	if err != nil && !(flag(r, "force") && errors.Is(err, cnm.ErrNotFound)) {
		return err
	}
	return w.empty(http.StatusNoContent)
}

// prune removes the volumes that nobody has named, and all with all=true, as clients before 1.42 mean it always.
func (s volumeService) prune(w *answer, r *http.Request) error {
	given, err := filtersOf(r)
	if err != nil {
		return err
	}
	all, given := take(given, "all")
	due, err := server.MatchPruned(given)
	if err != nil {
		return err
	}
	everything := minor(r) < 42 || len(all) > 0 && all[0] != "false" && all[0] != "0"
	names, freed, err := s.volumes.PruneVolumes(r.Context(), everything, func(v data.Volume) bool {
		return due(v.Created, v.Labels)
	})
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, volume.PruneReport{VolumesDeleted: names, SpaceReclaimed: uint64(freed)})
}

func encodeVolume(v server.VolumeView) volume.Volume {
	out := volume.Volume{Name: v.Name, Driver: data.LocalDriver, Mountpoint: v.Path, Labels: v.Labels, Scope: "local",
		Options: v.Options}
	for _, m := range []*map[string]string{&out.Labels, &out.Options} {
		if *m == nil {
			*m = map[string]string{}
		}
	}
	if !v.Created.IsZero() {
		out.CreatedAt = v.Created.UTC().Format(time.RFC3339)
	}
	return out
}
