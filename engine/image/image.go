package image

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/vethloom/vethloom/cnm"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is what callers see of a stored image.
type Image struct {
	ID           string   // sha256:<64 hex digits>, the digest of the image's configuration
	References   []string // short form (busybox:latest), sorted; none for a dangling image
	Digests      []string // repository@sha256:… by which registries know it, sorted
	Created      time.Time
	Size         int64 // bytes in the regular files of all layers
	OS           string
	Architecture string
	Variant      string
	Author       string
	Layers       []string // diff IDs, bottom first
	Config       ocispec.ImageConfig
	Healthcheck  []byte        // Docker's extension to Config, JSON
	Raw          []byte        // the whole configuration, byte for byte; not to be changed
	Manifest     v1.Descriptor // what a push gives to a registry; the zero one for an image of an earlier version
	Added        time.Time     // when it came in

	layerKeys []string // what its layers are kept under, bottom first
}

// Config says where a [Store] keeps its things.
type Config struct {
	Root  string    // a directory of the store's own, such as <state>/images; made when missing
	Store cnm.Store // the records of kind image
	Log   *slog.Logger
	// Step, if there is one, is called before each change of the disk, and its error fails the change: tests have
	// changes fail, or end the process before one.
	Step func(change string) error
}

// ImportOptions describe the image made of a root filesystem.
type ImportOptions struct {
	Reference string // name[:tag]; "" leaves the image untagged
	// Dockerfile instructions that set the configuration: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER,
	// VOLUME, WORKDIR
	Changes  []string
	Message  string // the comment in the image's history
	Platform string // OS/architecture; "": this host's
	Author   string
}

// NotFoundError says that nothing has the wanted name or ID. It is a
// [cnm.ErrNotFound].
type NotFoundError struct {
	Ref string
}

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("no such image: %s: list what there is with 'net images', or bring it in with 'net pull', "+
		"'net load' or 'net import'", e.Ref)
}

// Is makes the error match [cnm.ErrNotFound].
func (e *NotFoundError) Is(target error) bool { return target == cnm.ErrNotFound }

// AmbiguousError says that an ID prefix fits several images.
type AmbiguousError struct {
	Prefix string
	IDs    []string
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("image ID prefix %s is ambiguous, it fits %s: give more digits", e.Prefix,
		strings.Join(e.IDs, " and "))
}

// Is makes the error match [cnm.ErrInvalid].
func (e *AmbiguousError) Is(target error) bool { return target == cnm.ErrInvalid }
