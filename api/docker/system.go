package docker

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"time"

	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	creds "github.com/vethloom/vethloom/engine/registry"
)

// systemService answers for the daemon as a whole.
type systemService struct{ *Server }

func systemRoutes(srv *Server) []route {
	s := systemService{srv}
	return []route{
		{pattern: "GET /_ping", do: s.ping}, // HEAD too
		{pattern: "GET /version", do: s.version},
		{pattern: "GET /info", do: s.info},
		{pattern: "GET /events", do: s.events, lasts: true},
		{pattern: "GET /system/df", do: s.diskUsage},
		{pattern: "POST /auth", do: s.login},
		{pattern: "GET /distribution/{name}/json",
			do: absent("what a registry has of an image is not shown without a pull", "pull it, and inspect that")},
	}
}

func (s systemService) ping(w *answer, r *http.Request) error {
	h := w.Header()
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Builder-Version", "1")
	h.Set("Swarm", "inactive")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if r.Method == http.MethodHead {
		h.Set("Content-Length", "0")
		return w.empty(http.StatusOK)
	}
	_, err := w.Write([]byte("OK"))
	return err
}

func (s systemService) version(w *answer, _ *http.Request) error {
	v := s.cfg.System.Version()
	return w.json(http.StatusOK, system.VersionResponse{
		Platform: system.PlatformInfo{Name: "vethloom"}, Version: v.Version,
		APIVersion: MaxVersion, MinAPIVersion: MinVersion, Os: runtime.GOOS, Arch: runtime.GOARCH,
		Components: []system.ComponentVersion{{Name: "Engine", Version: v.Version, Details: map[string]string{
			"ApiVersion": MaxVersion, "MinAPIVersion": MinVersion, "Os": runtime.GOOS, "Arch": runtime.GOARCH,
			"GitCommit": v.Commit, "GoVersion": v.Go, "KernelVersion": v.Kernel, "Experimental": "false",
			"BuildTime": ""}}},
		GitCommit: v.Commit, GoVersion: v.Go, KernelVersion: v.Kernel,
	})
}

// info is what /info answers. The two more are for clients before 1.50, which warn where bridges do not filter: here
// packets between endpoints are filtered without them.
type info struct {
	system.Info
	BridgeNfIptables  bool
	BridgeNfIP6tables bool `json:"BridgeNfIp6tables"`
}

func (s systemService) info(w *answer, r *http.Request) error {
	ctx := r.Context()
	status, err := s.cfg.System.Status(ctx)
	if err != nil {
		return err
	}
	containers, err := s.cfg.Containers.List(ctx, true)
	if err != nil {
		return err
	}
	images, err := s.cfg.Images.ListImages(ctx)
	if err != nil {
		return err
	}
	v := s.cfg.System.Version()
	out := info{BridgeNfIptables: true, BridgeNfIP6tables: true, Info: system.Info{
		ID: s.cfg.ID, Containers: len(containers), Images: len(images), Driver: storageDriver,
		DriverStatus: [][2]string{{"Root", status.Root}}, MemoryLimit: true, SwapLimit: true, CPUCfsPeriod: true,
		CPUCfsQuota: true, CPUShares: true, CPUSet: true, PidsLimit: true, IPv4Forwarding: true, OomKillDisable: true,
		NGoroutines: runtime.NumGoroutine(), SystemTime: time.Now().Format(time.RFC3339Nano),
		LoggingDriver: "json-file", CgroupDriver: "cgroupfs", CgroupVersion: s.host.cgroups, KernelVersion: v.Kernel,
		OperatingSystem: s.host.system, OSVersion: s.host.release, OSType: runtime.GOOS,
		Architecture: s.host.machine, IndexServerAddress: "https://index.docker.io/v1/", NCPU: runtime.NumCPU(),
		MemTotal: s.host.memory, DockerRootDir: status.Root, Name: s.host.name, Labels: []string{},
		ServerVersion: v.Version, DefaultRuntime: runtimeName,
		Runtimes: map[string]system.RuntimeWithStatus{runtimeName: {Runtime: system.Runtime{Path: runtimeName}}},
		Swarm:    swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive}, LiveRestoreEnabled: true,
		SecurityOptions: []string{"name=seccomp,profile=builtin"}, CDISpecDirs: []string{},
		RegistryConfig: &registry.ServiceConfig{IndexConfigs: map[string]*registry.IndexInfo{
			"docker.io": {Name: "docker.io", Mirrors: []string{}, Secure: true, Official: true}}},
		Plugins: system.PluginsInfo{Volume: []string{"local"}, Log: []string{"json-file"}, Network: []string{
			"bridge", "host", "hostgw", "ipvlan", "macvlan", "null", "overlay", "udp", "vxlan"}},
		FirewallBackend: &system.FirewallInfo{Driver: status.Firewall}, Warnings: status.Notices,
	}}
	if s.host.cgroups == "2" {
		out.SecurityOptions = append(out.SecurityOptions, "name=cgroupns")
	}
	for _, c := range containers {
		switch c.Status {
		case engine.Running:
			out.ContainersRunning++
		case engine.Paused:
			out.ContainersPaused++
		default:
			out.ContainersStopped++
		}
	}
	return w.json(http.StatusOK, out)
}

const (
	storageDriver = "overlay2" // what Docker calls the file system that layers are put together by
	runtimeName   = "net-shim"
)

// login asks a registry whether a credential is good.
func (s systemService) login(w *answer, r *http.Request) error {
	var a registry.AuthConfig
	if err := decode(w, r, &a); err != nil {
		return err
	}
	c := credential(cmp.Or(registryHost(a.ServerAddress), "docker.io"), a)
	err := s.cfg.Images.LoginRegistry(r.Context(), c)
	if statusOf(err) == http.StatusForbidden {
		return &refusal{status: http.StatusUnauthorized, text: err.Error()}
	}
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, registry.AuthResponse{Status: "Login Succeeded"})
}

func credential(host string, a registry.AuthConfig) creds.Credential {
	return creds.Credential{Host: host, Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken,
		RegistryToken: a.RegistryToken}
}

// registryHost is the host of a registry's address, which may be a URL: https://index.docker.io/v1/ is Docker Hub.
func registryHost(address string) string {
	host, _, _ := strings.Cut(address, "/")
	if u, err := url.Parse(address); err == nil && u.Host != "" {
		host = u.Host
	}
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		return "docker.io"
	}
	return host
}

// credentialsFor are those that a request brings for the registry of an image.
func (s *Server) credentialsFor(ctx context.Context, r *http.Request, ref string, push bool) ([]creds.Credential,
	error) {
	a, err := authHeader(r)
	if err != nil || a == (registry.AuthConfig{}) {
		return nil, err
	}
	hosts, err := s.cfg.Images.RegistryHosts(ctx, ref, push)
	if err != nil {
		return nil, err
	}
	for _, h := range hosts {
		if !h.Mirror {
			return []creds.Credential{credential(h.Host, a)}, nil
		}
	}
	return nil, &cnm.Error{Kind: cnm.ErrNotFound, Field: "registry", Value: ref, Reason: "the image has none"}
}

// authHeader is what a request brings for a registry: base64 of JSON, in the form for URLs.
func authHeader(r *http.Request) (a registry.AuthConfig, err error) {
	text := r.Header.Get(registry.AuthHeader)
	if text == "" {
		return a, nil
	}
	data, err := base64.URLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(data, &a)
	}
	if err != nil { // without the value: it is a secret
		return a, invalid(registry.AuthHeader, "", "is not what it should be", "send the base64 of JSON, for URLs: "+
			`{"username":"…","password":"…"}`)
	}
	return a, nil
}
