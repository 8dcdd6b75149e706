package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/engine/registry"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// openRegistries makes what speaks to registries as this host's files say.
func openRegistries(c Config, log *slog.Logger) *registry.Client {
	return registry.Open(registry.Config{HostDirs: listed(c.RegistryDirs), Registries: listed(c.Registries), Log: log,
		UserAgent: "vethloom/" + c.Version})
}

// listed is what a flag has with commas between; nil for nothing.
func listed(flag string) []string {
	if flag == "" {
		return nil
	}
	return strings.Split(flag, ",")
}

// PullImage implements [server.ImageTransfers].
func (i images) PullImage(ctx context.Context, r server.PullRequest, report func(image.Progress)) (server.PulledImage,
	error) {
	named, err := image.ParseNamed(r.Reference)
	if err != nil {
		return server.PulledImage{}, err
	}
	repository, err := i.registries.Repository(r.Reference, r.Credentials)
	if err != nil {
		return server.PulledImage{}, err
	}
	defer repository.Close()
	repository.Report = report
	i.before(ctx, report)
	pulled, err := i.Pull(ctx, r.Reference, repository, image.PullOptions{Platform: r.Platform, Report: report})
	if err != nil {
		return server.PulledImage{}, err
	}
	if pulled.Fresh {
		i.daemon.events.emit(server.Event{Type: "image", Action: "pull", ID: pulled.ID,
			Attributes: map[string]string{"name": named.String()}})
	}
	return server.PulledImage{Image: pulled.Image, Reference: named.String(), Digest: pulled.Digest,
		Newer: pulled.Fresh}, nil
}

// PushImage implements [server.ImageTransfers].
func (i images) PushImage(ctx context.Context, r server.PushRequest, report func(image.Progress)) (
	p server.PushedImage, err error) {
	named, err := image.ParseNamed(r.Reference)
	if err != nil {
		return server.PushedImage{}, err
	}
	if named.Tag == "" {
		return server.PushedImage{}, &cnm.Error{Kind: cnm.ErrInvalid, Field: "image reference", Value: r.Reference,
			Reason: "is a digest, and a push needs a tag",
			Remedy: "give the image a name with 'net tag', and push that"}
	}
	out, err := i.Outgoing(ctx, r.Reference)
	if err != nil {
		return server.PushedImage{}, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	repository, err := i.registries.Repository(r.Reference, r.Credentials)
	if err != nil {
		return server.PushedImage{}, err
	}
	defer repository.Close()
	repository.Report = report
	referrers, err := out.Referrers()
	if err != nil {
		return server.PushedImage{}, err
	}
	content := outgoing{Outgoing: out}
	for _, r := range referrers {
		content.referrers = append(content.referrers, outgoing{Outgoing: r})
	}
	digest, size, err := repository.Push(ctx, named.Tag, content, report)
	if err != nil {
		return server.PushedImage{}, err
	}
	if err := i.Pushed(ctx, out.Image.ID, named.Repository, digest); err != nil {
		return server.PushedImage{}, err
	}
	i.daemon.events.emit(server.Event{Type: "image", Action: "push", ID: out.Image.ID,
		Attributes: map[string]string{"name": named.String()}})
	return server.PushedImage{Reference: named.String(), Digest: digest.String(), Size: size}, nil
}

// outgoing is an image as a registry takes it.
type outgoing struct {
	*image.Outgoing
	referrers []registry.Content
}

// Manifest implements [registry.Content].
func (o outgoing) Manifest() (v1.Descriptor, []byte) { return o.Outgoing.Manifest, o.Raw }

// Blob implements [registry.Content].
func (o outgoing) Blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	return o.Outgoing.Blob(ctx, d)
}

// Referrers implements [registry.Content].
func (o outgoing) Referrers() []registry.Content { return o.referrers }

// RegistryHosts implements [server.ImageTransfers].
func (i images) RegistryHosts(_ context.Context, ref string, push bool) ([]server.RegistryHost, error) {
	if _, err := image.ParseNamed(ref); err != nil {
		return nil, err
	}
	endpoints, err := i.registries.Endpoints(ref, push)
	if err != nil {
		return nil, err
	}
	var out []server.RegistryHost
	for _, e := range endpoints {
		out = append(out, server.RegistryHost{Host: e.Host, Mirror: e.Mirror,
			PlainHTTP: strings.HasPrefix(e.URL, "http://")})
	}
	return out, nil
}

// LoginRegistry implements [server.ImageTransfers].
func (i images) LoginRegistry(ctx context.Context, c registry.Credential) error {
	return i.registries.Login(ctx, c)
}
