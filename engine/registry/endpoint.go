package registry

import (
	"net/http"
	"net/netip"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/vethloom/vethloom/cnm"
)

const (
	dockerHub        = "docker.io"
	dockerHubAddress = "registry-1.docker.io"
	dockerHubKey     = "https://index.docker.io/v1/"
)

// Endpoint is one server that is asked for a repository.
type Endpoint struct {
	// Host is the name that a credential is keyed by in Credential.Host: host[:port]. Docker Hub is docker.io,
	// whichever of its names is used.
	Host string
	// ConfigKey is the key of the host in the auths and credHelpers of Docker's config.json: Host, but
	// https://index.docker.io/v1/ for Docker Hub.
	ConfigKey  string
	URL        string // where requests go: https://registry-1.docker.io/v2
	Repository string // the repository's name there: library/busybox
	Mirror     bool
}

// endpoint is an Endpoint with all that is needed to speak to it.
type endpoint struct {
	Endpoint
	address string   // host[:port] of the URL
	base    string   // path of the URL, which ends at /v2 unless settings say otherwise
	schemes []string // of the URL, in the order they are tried
	tls     tlsSettings
	header  http.Header // sent with every request to it
	ns      string      // the registry that a mirror stands for, as containerd's mirrors are told; "" to say nothing
	resolve bool        // whether it is asked for tags
}

// newEndpoint is an endpoint of a host as it is without settings.
func newEndpoint(host, repository string) endpoint {
	host = canonicalHost(host)
	e := endpoint{address: host, base: "/v2", schemes: []string{"https"}, resolve: true}
	e.Host, e.ConfigKey, e.Repository = host, host, repository
	if host == dockerHub {
		e.address, e.ConfigKey = dockerHubAddress, dockerHubKey
	}
	if isLoopback(host) {
		e.schemes = []string{"https", "http"}
	}
	return e
}

// finish fills in what follows from the rest.
func (e *endpoint) finish() { e.URL = e.schemes[0] + "://" + e.address + e.base }

// isLoopback reports whether a host[:port] is this machine by its name, so that plain HTTP does not leave it.
func isLoopback(host string) bool {
	h := hostname(host)
	if a, err := netip.ParseAddr(h); err == nil {
		return a.Unmap().IsLoopback()
	}
	return h == "localhost" || strings.HasSuffix(h, ".localhost")
}

// hostname is a host[:port] without its port and brackets.
func hostname(host string) string {
	if rest, ok := strings.CutPrefix(host, "["); ok {
		h, _, _ := strings.Cut(rest, "]")
		return h
	}
	h, _, _ := strings.Cut(host, ":")
	return h
}

// validHost keeps a host from being anything but a name or an address: it names a folder too.
var validHost = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$`)

// validComponent is a part of a repository's name (OCI distribution specification).
var validComponent = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$`)

// reference is what a user asks for.
type reference struct {
	host, repository string
	tag, digest      string // one of them
}

// parseReference reads [host/]repository[:tag|@digest]. Without a host it is Docker Hub's, as with Docker; podman's
// unqualified-search-registries are not looked at.
func parseReference(ref string) (reference, error) {
	bad := func(reason string) (reference, error) {
		return reference{}, &cnm.Error{Kind: cnm.ErrInvalid, Field: "image reference", Value: said(ref), Reason: reason,
			Remedy: "use name[:tag] or name@sha256:…, such as busybox or example.org/team/app:1.2"}
	}
	if len(ref) > maxText {
		return bad("is too long")
	}
	parsed, err := name.ParseReference(ref, name.WithDefaultTag("latest"))
	if err != nil {
		return bad("is malformed")
	}
	r := reference{host: canonicalHost(parsed.Context().RegistryStr()), repository: parsed.Context().RepositoryStr()}
	if !validHost.MatchString(r.host) {
		return bad("has a malformed name of a registry")
	}
	for part := range strings.SplitSeq(r.repository, "/") {
		if !validComponent.MatchString(part) {
			return bad("has a malformed part")
		}
	}
	switch p := parsed.(type) {
	case name.Digest:
		r.digest = p.DigestStr()
	case name.Tag:
		r.tag = p.TagStr()
	}
	return r, nil
}

// name is the reference without tag and digest.
func (r reference) name() string { return r.host + "/" + r.repository }

// full is the reference with its tag or digest.
func (r reference) full() string {
	if r.digest != "" {
		return r.name() + "@" + r.digest
	}
	return r.name() + ":" + r.tag
}

// endpoints are who is asked for a reference, in order; for a push, one.
func (s settings) endpoints(ref reference, push bool) ([]endpoint, error) {
	conf, err := s.registries(ref)
	if err != nil {
		return nil, err
	}
	if conf.blocked {
		return nil, &cnm.Error{Kind: cnm.ErrForbidden, Field: "image reference", Value: ref.full(),
			Reason: "is blocked by " + conf.file,
			Remedy: "choose an image of another registry, or remove 'blocked = true' there"}
	}
	hosts, err := s.hosts(ref.host)
	if err != nil {
		return nil, err
	}
	var all []endpoint
	switch {
	case hosts != nil && (!hosts.fallback || !conf.found):
		all, err = hosts.endpoints(ref, push)
	case conf.found:
		all, err = conf.endpoints(ref, push)
	default:
		all = []endpoint{newEndpoint(ref.host, ref.repository)}
	}
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Repository == "" && ref.repository != "" {
			return nil, settingError(conf.file, "location", conf.table.Location, "leaves no repository of "+ref.name(),
				"write the repository's name after the host")
		}
		if all[i].tls, err = s.certificates(all[i].address, all[i].tls); err != nil {
			return nil, err
		}
		all[i].finish()
	}
	return all, nil
}
