package view

import (
	"maps"
	"strings"

	apiv1 "github.com/vethloom/vethloom/api/v1"
)

type imageView struct {
	ID           string `json:"Id"`
	RepoTags     []string
	RepoDigests  []string
	Parent       string // none: what an image was made from is not kept
	Comment      string
	Created      Moment
	Author       string
	Config       map[string]any // what the image has, with fields that are unknown here
	Architecture string
	Variant      string `json:",omitempty"`
	Os           string
	Size         int64
	GraphDriver  graphDriverView
	RootFS       rootFSView
	Metadata     map[string]string
	Descriptor   *descriptorView `json:",omitempty"`
}

// Id is Docker's spelling in templates.
func (v imageView) Id() string { return v.ID } //nolint:staticcheck // templates say .Id

type rootFSView struct {
	Type   string
	Layers []string
}

type graphDriverView struct {
	Name string
	Data map[string]string
}

// descriptorView has the names of the OCI image specification.
type descriptorView struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
}

// Image is an image as 'docker image inspect' shows it.
func Image(i *apiv1.Image) imageView {
	var raw struct {
		Comment string
		Config  map[string]any
		History []struct{ Comment string }
	}
	decode(i.GetConfig(), &raw)
	v := imageView{
		ID: i.GetId(), RepoTags: append([]string{}, i.GetReferences()...),
		RepoDigests: append([]string{}, i.GetDigests()...), Created: Time(i.GetCreated()), Author: i.GetAuthor(),
		Comment: raw.Comment, Size: i.GetSize(), Os: i.GetOs(), Architecture: i.GetArchitecture(),
		Variant: i.GetVariant(), RootFS: rootFSView{"layers", i.GetLayers()}, Config: map[string]any{},
		GraphDriver: graphDriverView{Name: "overlayfs"}, Metadata: map[string]string{},
	}
	if n := len(raw.History); n > 0 && v.Comment == "" {
		v.Comment = raw.History[n-1].Comment
	}
	if d := i.GetManifest(); d != nil {
		v.Descriptor = &descriptorView{d.GetMediaType(), d.GetDigest(), d.GetSize()}
	}
	maps.Copy(v.Config, raw.Config)
	maps.Copy(v.Config, map[string]any{
		"User": i.GetUser(), "Env": i.GetEnv(), "Entrypoint": i.GetEntrypoint(), "Cmd": i.GetCommand(),
		"WorkingDir": i.GetWorkDir(), "Labels": OrEmpty(i.GetLabels()),
	})
	if ports := i.GetExposedPorts(); len(ports) > 0 {
		exposed := map[string]struct{}{}
		for _, p := range ports {
			exposed[p] = struct{}{}
		}
		v.Config["ExposedPorts"] = exposed
	}
	return v
}

type usageView struct {
	Images     []imageUsageView
	Containers []containerUsageView
	Volumes    []volumeUsageView
	ImagesSize int64
	Leftovers  int64
}

type imageUsageView struct {
	ID         string `json:"Id"`
	RepoTags   []string
	Size       int64
	SharedSize int64
	UniqueSize int64
	Containers []string
}

type containerUsageView struct {
	ID     string `json:"Id"`
	Name   string
	Image  string
	Status string
	SizeRw int64
}

type volumeUsageView struct {
	Name       string
	Size       int64
	Containers []string
}

// DiskUsage has each thing and its bytes.
func DiskUsage(u *apiv1.DiskUsageResponse) usageView {
	v := usageView{ImagesSize: u.GetImagesSize(), Leftovers: u.GetLeftovers(), Images: []imageUsageView{},
		Containers: []containerUsageView{}, Volumes: []volumeUsageView{}}
	for _, i := range u.GetImages() {
		v.Images = append(v.Images, imageUsageView{i.GetImage().GetId(), i.GetImage().GetReferences(), i.GetSize(),
			i.GetShared(), i.GetUnique(), i.GetContainers()})
	}
	for _, c := range u.GetContainers() {
		v.Containers = append(v.Containers, containerUsageView{c.GetId(), c.GetName(), c.GetImage(), c.GetStatus(),
			c.GetSize()})
	}
	for _, vol := range u.GetVolumes() {
		v.Volumes = append(v.Volumes, volumeUsageView{vol.GetVolume().GetName(), vol.GetSize(),
			vol.GetVolume().GetContainers()})
	}
	return v
}

// Cut is the beginning of a text, of at most so many characters, with an ellipsis where there is more.
func Cut(text string, most int) string {
	r := []rune(text)
	if len(r) <= most {
		return text
	}
	return strings.TrimSpace(string(r[:most-1])) + "…"
}
