package registry

// Credential is what a user has for a registry. It is never written anywhere.
type Credential struct {
	Host          string // host[:port], as Endpoint.Host has it
	Username      string
	Password      string
	IdentityToken string // OAuth2 refresh token, used in place of the password
	RegistryToken string // bearer token that is sent as it is
}
