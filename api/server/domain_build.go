package server

import (
	"context"
	"io"

	"github.com/vethloom/vethloom/engine/registry"
)

// Builds has images built from Dockerfiles. gRPC does not serve it: 'net build' is a client of netd and of BuildKit.
type Builds interface {
	// BuildImage builds from a tar, compressed or not, and returns the image's ID. Progress gets lines of text, and is
	// not written to after BuildImage has returned. When the context ends, so does the build.
	BuildImage(ctx context.Context, r BuildRequest, tar io.Reader, progress io.Writer) (id string, err error)
}

// BuildRequest says how to build an image.
type BuildRequest struct {
	Remote      string // URL of the context, in place of a tar
	Dockerfile  string // in the context; "": Dockerfile
	Tags        []string
	Args        []string // NAME=VALUE
	Target      string   // stage
	Platform    string
	Network     string   // of the steps; "": the default
	Labels      []string // NAME=VALUE
	ExtraHosts  []string // NAME:ADDRESS
	CacheFrom   []string
	NoCache     bool
	Pull        bool
	Credentials []registry.Credential // for base images
}
