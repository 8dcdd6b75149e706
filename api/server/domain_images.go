package server

import (
	"context"
	"io"
	"time"

	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/engine/registry"
)

// Images is what the images service needs. References are names, digests, IDs or unambiguous prefixes of IDs.
type Images interface {
	ImageViews
	ImageChanges
	ImageTransfers
}

// ImageViews shows images.
type ImageViews interface {
	// ListImages returns all images, newest first.
	ListImages(context.Context) ([]image.Image, error)
	InspectImage(ctx context.Context, ref string) (image.Image, error)
	// ImageHistory returns how an image was made, newest first.
	ImageHistory(ctx context.Context, ref string) ([]image.History, error)
}

// ImageChanges brings images in from files, and changes those that are there.
type ImageChanges interface {
	ImportImage(context.Context, io.Reader, image.ImportOptions) (image.Image, error)
	LoadImages(context.Context, io.Reader) ([]image.Image, error)
	// SaveImages writes one archive of images.
	SaveImages(ctx context.Context, w io.Writer, refs []string, o image.SaveOptions) error
	RemoveImage(ctx context.Context, ref string, force bool) (untagged, deleted []string, err error)
	TagImage(ctx context.Context, src, dst string) error
	// PruneImages removes what is due and no container needs: images without a name, or any with all; and what is
	// left of pulls that ended early.
	PruneImages(ctx context.Context, all bool, due func(image.Image) bool) (PrunedImages, error)
	// CheckImages compares all that is kept with its digests, and calls found for what is not as it should be.
	// With repair it puts right what it can. An error of found ends it.
	CheckImages(ctx context.Context, repair bool, report func(image.Progress), found func(image.Damage) error) (
		image.Checked, error)
}

// ImageTransfers are those with registries. A report is called from several goroutines, and returns at once.
type ImageTransfers interface {
	PullImage(ctx context.Context, r PullRequest, report func(image.Progress)) (PulledImage, error)
	PushImage(ctx context.Context, r PushRequest, report func(image.Progress)) (PushedImage, error)
	// RegistryHosts returns the hosts that an image's reference stands for, in the order in which they are asked.
	RegistryHosts(ctx context.Context, ref string, push bool) ([]RegistryHost, error)
	// LoginRegistry asks the credential's host whether it is good.
	LoginRegistry(context.Context, registry.Credential) error
}

// PullRequest says what to pull.
type PullRequest struct {
	Reference   string // name[:tag][@digest]
	Platform    string // OS/architecture[/variant]; "": this host's
	Credentials []registry.Credential
}

// PulledImage is an image after its pull.
type PulledImage struct {
	image.Image
	Reference string // in short form
	Digest    string // of what the registry has under the reference: a manifest or an index
	Newer     bool   // than what was here; else it was up to date
}

// PushRequest says what to push.
type PushRequest struct {
	Reference   string // name[:tag]
	Credentials []registry.Credential
}

// PushedImage is what a registry has after a push.
type PushedImage struct {
	Reference string // in short form
	Digest    string // of the manifest
	Size      int64  // of the manifest, bytes
}

// RegistryHost is a host that is asked for an image.
type RegistryHost struct {
	Host      string // host[:port]
	Mirror    bool
	PlainHTTP bool
}

// PrunedImages are what a prune has removed.
type PrunedImages struct {
	Untagged, Deleted []string
	Reclaimed         int64 // bytes
}

// ContainerFiles is what there is to do with a container's filesystem.
type ContainerFiles interface {
	// Commit makes an image of a container's filesystem, and returns its ID.
	Commit(context.Context, CommitRequest) (id string, err error)
	// Changes calls f with what a container changed of its image's files, some at a time, in the order of their paths.
	// An error of f ends it.
	Changes(ctx context.Context, ref string, f func([]FileChange) error) error
	// Export writes a tar of a container's filesystem, without its mounts.
	Export(ctx context.Context, ref string, w io.Writer) error
	// StatPath, CopyOut and CopyIn reach files of a container, its mounts included, whether it runs or not. No link
	// leads out of it. CopyOut calls begin once, before it writes a tar; CopyIn reads one.
	StatPath(ctx context.Context, ref, path string) (engine.PathStat, error)
	CopyOut(ctx context.Context, ref, path string, begin func(engine.PathStat) error, w io.Writer) error
	CopyIn(ctx context.Context, ref, path string, o engine.CopyInOptions, r io.Reader) error
}

// CommitRequest says how to make an image of a container.
type CommitRequest struct {
	Container       string
	Reference       string // name[:tag]; "" leaves the image untagged
	Author, Message string
	Changes         []string // as [image.ImportOptions] has them
	Pause           bool     // no process of the container runs while it is read
}

// FileChange is a file that a container has changed.
type FileChange struct {
	Kind string // one of the Change constants
	Path string // absolute, in the container
}

// What became of a file.
const (
	ChangeAdded   = "added"
	ChangeChanged = "changed"
	ChangeDeleted = "deleted"
)

// DiskUsage is what is on the disk.
type DiskUsage struct {
	Images     []ImageUsage
	Containers []ContainerUsage
	Volumes    []VolumeUsage
	ImagesSize int64 // bytes of all that images have, what several have once
	Leftovers  int64 // bytes of pulls that ended early
}

// ImageUsage is what an image takes, in bytes, unpacked and as it came.
type ImageUsage struct {
	image.Image
	OnDisk     int64 // all of it
	Shared     int64 // of OnDisk, what other images have too
	Unique     int64 // what removing it frees
	Containers []string
}

// ContainerUsage is what a container takes.
type ContainerUsage struct {
	ID, Name, Image, Status string
	Created                 time.Time
	Size                    int64 // bytes of what it has written, its log too
}

// VolumeUsage is what a volume takes.
type VolumeUsage struct {
	VolumeView
	Size int64 // bytes
}
