package image

import (
	"context"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Source is where a pull gets an image from: a repository of a registry.
type Source interface {
	// Manifest returns a manifest or an index by tag or digest (sha256:…), with what it is. What is asked for by
	// digest has that digest.
	Manifest(ctx context.Context, ref string) (v1.Descriptor, []byte, error)
	// Blob opens a blob at an offset in bytes. A read goes on over broken connections; nothing is verified but that
	// it has no more than the descriptor's size.
	Blob(ctx context.Context, d v1.Descriptor, offset int64) (io.ReadCloser, error)
	// Referrers lists what refers to a manifest (signatures, lists of contents), OCI distribution 1.1.
	Referrers(ctx context.Context, h v1.Hash) ([]v1.Descriptor, error)
}

// Progress says how far a part of a transfer is.
type Progress struct {
	Part    string // the digest of a blob; "" for the whole
	Action  string // one of the Action constants
	Current int64  // bytes
	Total   int64  // bytes; 0 where it is not known
	Text    string // what there is to say besides, such as why it is tried again
}

// What is done to a part of a transfer.
const (
	ActionWaiting     = "waiting"
	ActionDownloading = "downloading"
	ActionUnpacking   = "unpacking" // all is fetched, the rest of it is being written
	ActionRetrying    = "retrying"
	ActionPulled      = "pulled"
	ActionExists      = "exists" // here (or there, of a push) already
	ActionPushing     = "pushing"
	ActionMounted     = "mounted" // the registry takes it from another repository of its own
	ActionPushed      = "pushed"
	ActionChecking    = "checking"
)

// PullOptions say what to take of an image.
type PullOptions struct {
	Platform string // OS/architecture[/variant]; "": this host's
	Report   func(Progress)
}

// SaveOptions say how to write an archive.
type SaveOptions struct {
	// Format is "" for an archive that is both an OCI image layout and what 'docker load' reads, "oci-archive" for
	// the first alone, "docker-archive" for the second alone, with uncompressed layers.
	Format string
}

// History is one step of how an image was made, newest first.
type History struct {
	v1.History
	Size       int64    // bytes of the layer that it made, unpacked; 0 for none
	Layer      string   // diff ID; "" for none
	Image      string   // the ID of the image that ends with it, where it is known
	References []string // of that image
}
