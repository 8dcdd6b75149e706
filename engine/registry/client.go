package registry

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/vethloom/vethloom/cnm"
)

// What a Config is completed with.
var (
	defaultHostDirs   = []string{"/etc/containerd/certs.d", "/etc/docker/certs.d"}
	defaultRegistries = []string{"/etc/containers/registries.conf", "/etc/containers/registries.conf.d"}
)

const (
	defaultStall    = 60 * time.Second
	defaultAnswer   = 2 * time.Minute
	defaultRate     = 1 << 10 // bytes a second
	defaultWindow   = 30 * time.Second
	defaultAttempts = 5
	defaultPause    = 250 * time.Millisecond
)

// Config says where the settings of registries are and how patient to be. Its zero value is for ordinary hosts.
type Config struct {
	// HostDirs hold a folder for each registry, <dir>/<host[:port]>, with containerd's hosts.toml, or with certificates
	// as Docker has them: *.crt are CAs, *.cert and *.key a client's. The first hosts.toml counts; _default is for
	// hosts that have none. nil: /etc/containerd/certs.d and /etc/docker/certs.d.
	HostDirs []string
	// Registries are files in the format of registries.conf (version 2), and folders of them; later ones count more.
	// Where a hosts.toml names the host too, that counts, but what is blocked here stays so. Its
	// unqualified-search-registries and aliases are not looked at: a name without a host is Docker Hub's, as with
	// Docker. nil: /etc/containers/registries.conf and /etc/containers/registries.conf.d.
	Registries []string
	Log        *slog.Logger // nil: nowhere

	// Stall is how long a server may be silent; 0: 60 s.
	Stall time.Duration
	// Answer is how long a server may take to answer what is no blob, with its tokens and where it sends us on to: a
	// byte now and then is no answer; 0: 2 minutes. It counts for a blob, too, until its first byte.
	Answer time.Duration
	// Rate is how many bytes a second a server has to bring of a blob while somebody waits for them, over a Window. A
	// connection that brings less is given up as one that is silent. 0: 1 KiB; 0: 30 s.
	Rate   int64
	Window time.Duration
	// Attempts is how often the same is asked for when it fails in a way that may pass; 0: 5. Bytes of a blob that
	// come at the rate start the count anew.
	Attempts int
	// Pause is waited for before the second attempt, and twice as long before each further one; 0: 250 ms.
	Pause time.Duration
	// UserAgent is sent with each request; "": vethloom.
	UserAgent string
}

// Client speaks to registries. All of its methods may be called at the same time.
type Client struct {
	settings  settings
	log       *slog.Logger
	stall     time.Duration
	answer    time.Duration
	rate      int64
	window    time.Duration
	attempts  int
	pause     time.Duration
	userAgent string
	proxy     func(*url.URL) (*url.URL, error)
}

// Open makes a client. The proxies are those of the environment at this time (HTTPS_PROXY, HTTP_PROXY, NO_PROXY); the
// files of the Config are read at each use.
func Open(c Config) *Client {
	client := &Client{
		settings: settings{hostDirs: c.HostDirs, files: c.Registries}, log: c.Log,
		userAgent: c.UserAgent, proxy: httpproxy.FromEnvironment().ProxyFunc(),
	}
	if c.HostDirs == nil {
		client.settings.hostDirs = defaultHostDirs
	}
	if c.Registries == nil {
		client.settings.files = defaultRegistries
	}
	if c.Log == nil {
		client.log = slog.New(slog.DiscardHandler)
	}
	client.stall = given(c.Stall, defaultStall)
	client.answer = given(c.Answer, defaultAnswer)
	client.rate = given(c.Rate, defaultRate)
	client.window = given(c.Window, defaultWindow)
	client.attempts = given(c.Attempts, defaultAttempts)
	client.pause = given(c.Pause, defaultPause)
	if c.UserAgent == "" {
		client.userAgent = "vethloom"
	}
	return client
}

// given is a setting, or its default.
func given[T int | int64 | time.Duration](have, otherwise T) T {
	if have <= 0 {
		return otherwise
	}
	return have
}

// Endpoints are the servers that are asked for a reference ([host/]repository[:tag|@digest]) in the order they are
// tried: for a pull the mirrors and then the registry, for a push the registry alone. Errors name the file and the
// field that is wrong.
func (c *Client) Endpoints(ref string, push bool) ([]Endpoint, error) {
	parsed, err := parseReference(ref)
	if err != nil {
		return nil, err
	}
	all, err := c.settings.endpoints(parsed, push)
	if err != nil {
		return nil, err
	}
	endpoints := make([]Endpoint, len(all))
	for i, e := range all {
		endpoints[i] = e.Endpoint
	}
	return endpoints, nil
}

// Repository is where a reference is pulled from and pushed to. Of the credentials, each is sent to its own host alone.
// Nothing is asked for yet. The caller closes it.
func (c *Client) Repository(ref string, creds []Credential) (*Repository, error) {
	parsed, err := parseReference(ref)
	if err != nil {
		return nil, err
	}
	all, err := c.settings.endpoints(parsed, false)
	if err != nil {
		return nil, err
	}
	r := &Repository{client: c, ref: parsed, creds: creds}
	for _, e := range all {
		r.sessions = append(r.sessions, c.newSession(e, creds, "repository:"+e.Repository+":pull"))
	}
	return r, nil
}

// Login finds out whether a registry takes a credential. The error's kind tells a credential that is not taken
// (KindUnauthorized) from a registry that cannot be reached (KindUnreachable), that is not trusted (KindCertificate,
// KindPlainHTTP) or that is none (KindNoRegistry).
func (c *Client) Login(ctx context.Context, cred Credential) error {
	host := canonicalHost(cred.Host)
	if !validHost.MatchString(host) {
		return &cnm.Error{Kind: cnm.ErrInvalid, Field: "registry", Value: said(cred.Host), Reason: "is no host",
			Remedy: "use host or host:port, without https://"}
	}
	all, err := c.settings.endpoints(reference{host: host, tag: "latest"}, true)
	if err != nil {
		return err
	}
	// The settings may lead to another server; the credential is for that one then.
	cred.Host = all[0].Host
	s := c.newSession(all[0], []Credential{cred})
	defer s.close()
	resp, err := s.do(ctx, request{op: "log in", method: http.MethodGet, limit: maxSmallBody,
		url: all[0].schemes[0] + "://" + all[0].address + "/v2/"})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
