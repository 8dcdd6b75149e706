package registry

import (
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Credential is what a user has for a registry. It is never written anywhere.
type Credential struct {
	Host          string // host[:port], as Endpoint.Host has it: docker.io for Docker Hub
	Username      string
	Password      string
	IdentityToken string // OAuth2 refresh token, used in place of the password
	RegistryToken string // bearer token that is sent as it is
}

// String leaves out what is secret.
func (c Credential) String() string { return c.Username + " at " + c.Host }

// GoString leaves out what is secret.
func (c Credential) GoString() string { return c.String() }

// authenticator is nobody in particular where there is no credential for the host.
func authenticator(host string, creds []Credential) authn.Authenticator {
	for _, c := range creds {
		if canonicalHost(c.Host) != host {
			continue
		}
		if c.Username == "" && c.Password == "" && c.IdentityToken == "" && c.RegistryToken == "" {
			continue
		}
		return authn.FromConfig(authn.AuthConfig{
			Username: c.Username, Password: c.Password,
			IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken,
		})
	}
	return authn.Anonymous
}

// canonicalHost is a registry's name in lower case; Docker Hub has one of many.
func canonicalHost(host string) string {
	host = strings.ToLower(host)
	switch host {
	case "index.docker.io", "registry-1.docker.io", "https://index.docker.io/v1/":
		return dockerHub
	}
	return host
}
