package docker

import (
	"net/http"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"
	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/engine"
)

// usage is what /system/df answers: the form since 1.52, and what it was before.
type usage struct {
	system.DiskUsage
	LayersSize  *int64               `json:",omitempty"`
	Images      []summary            `json:",omitempty"`
	Containers  []container.Summary  `json:",omitempty"`
	Volumes     []volume.Volume      `json:",omitempty"`
	BuildCache  *[]build.CacheRecord `json:",omitempty"`
	BuilderSize *int64               `json:",omitempty"`
}

// newUsage is the first version that has the sums, and the lists with verbose=true alone. Without that it has what was
// before, too.
const newUsage = 52

func (s systemService) diskUsage(w *answer, r *http.Request) error {
	u, err := s.cfg.System.DiskUsage(r.Context())
	if err != nil {
		return err
	}
	types := r.URL.Query()["type"]
	asked := map[system.DiskUsageObject]bool{}
	for _, t := range types {
		switch o := system.DiskUsageObject(t); o {
		case system.ContainerObject, system.ImageObject, system.VolumeObject, system.BuildCacheObject:
			asked[o] = true
		default:
			return invalid("type", t, "is nothing that takes space", "use container, image, volume or build-cache")
		}
	}
	var out usage
	if len(types) == 0 || asked[system.ImageObject] {
		out.ImageUsage = imageUsage(u)
		out.LayersSize = &u.ImagesSize
	}
	if len(types) == 0 || asked[system.ContainerObject] {
		out.ContainerUsage = containerUsage(u)
	}
	if len(types) == 0 || asked[system.VolumeObject] {
		out.VolumeUsage = volumeUsage(u)
	}
	if len(types) == 0 || asked[system.BuildCacheObject] {
		out.BuildCacheUsage = &build.DiskUsage{}
		out.BuildCache, out.BuilderSize = &[]build.CacheRecord{}, new(int64)
	}
	verbose := flag(r, "verbose")
	if minor(r) < newUsage || minor(r) == newUsage && !verbose {
		out = out.old()
	} else {
		out.LayersSize, out.BuildCache, out.BuilderSize = nil, nil, nil
	}
	switch {
	case minor(r) < newUsage:
		out.DiskUsage = system.DiskUsage{}
	case !verbose:
		out.withoutItems()
	}
	return w.json(http.StatusOK, out)
}

// old has the lists where they were before 1.52.
func (u usage) old() usage {
	if u.ImageUsage != nil {
		for _, i := range u.ImageUsage.Items {
			u.Images = append(u.Images, summary{i, i.Size})
		}
	}
	if u.ContainerUsage != nil {
		u.Containers = u.ContainerUsage.Items
	}
	if u.VolumeUsage != nil {
		u.Volumes = u.VolumeUsage.Items
	}
	return u
}

func (u usage) withoutItems() {
	if u.ImageUsage != nil {
		u.ImageUsage.Items = nil
	}
	if u.ContainerUsage != nil {
		u.ContainerUsage.Items = nil
	}
	if u.VolumeUsage != nil {
		u.VolumeUsage.Items = nil
	}
}

func imageUsage(u server.DiskUsage) *image.DiskUsage {
	out := &image.DiskUsage{TotalCount: int64(len(u.Images)), TotalSize: u.ImagesSize + u.Leftovers,
		Reclaimable: u.Leftovers}
	for _, i := range u.Images {
		one := encodeSummary(i.Image)
		one.Size, one.SharedSize, one.Containers = i.OnDisk, i.Shared, int64(len(i.Containers))
		out.Items = append(out.Items, one)
		if len(i.Containers) > 0 {
			out.ActiveCount++
		} else {
			out.Reclaimable += i.Unique
		}
	}
	return out
}

func containerUsage(u server.DiskUsage) *container.DiskUsage {
	out := &container.DiskUsage{TotalCount: int64(len(u.Containers))}
	for _, c := range u.Containers {
		out.Items = append(out.Items, container.Summary{ID: c.ID, Names: []string{"/" + c.Name}, Image: c.Image,
			Created: seconds(c.Created), State: container.ContainerState(c.Status), Status: c.Status, SizeRw: c.Size})
		out.TotalSize += c.Size
		if s := engine.Status(c.Status); s == engine.Running || s == engine.Paused {
			out.ActiveCount++
		} else {
			out.Reclaimable += c.Size
		}
	}
	return out
}

func volumeUsage(u server.DiskUsage) *volume.DiskUsage {
	out := &volume.DiskUsage{TotalCount: int64(len(u.Volumes))}
	for _, v := range u.Volumes {
		one := encodeVolume(v.VolumeView)
		one.UsageData = &volume.UsageData{RefCount: int64(len(v.Containers)), Size: v.Size}
		out.Items = append(out.Items, one)
		out.TotalSize += v.Size
		if len(v.Containers) > 0 {
			out.ActiveCount++
		} else {
			out.Reclaimable += v.Size
		}
	}
	return out
}
