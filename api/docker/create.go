package docker

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strings"
	"time"

	spec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/plan"
)

// This file reads what a container is to be.

// createBody is a request to make a container, with what older clients send.
type createBody struct {
	container.CreateRequest
	Cmd, Entrypoint stringList
	ExposedPorts    map[string]struct{}
	MacAddress      string // before 1.44
	HostConfig      hostConfigBody
}

// hostConfigBody is a HostConfig. Ports are read here, which gives better errors.
type hostConfigBody struct {
	container.HostConfig
	oldResources
	PortBindings map[string][]portBinding
}

// updateBody is a request to change a container.
type updateBody struct {
	container.UpdateConfig
	oldResources
}

// oldResources are limits that Docker had once.
type oldResources struct {
	KernelMemory, KernelMemoryTCP int64
}

type portBinding struct{ HostIP, HostPort string }

// stringList is a list of strings, or one alone.
type stringList []string

// UnmarshalJSON implements [json.Unmarshaler].
func (w *stringList) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil && string(text) != "null" {
		*w = stringList{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(w))
}

// notes are warnings about what was asked for and has no meaning here.
type notes []string

func (n *notes) ignored(field string, given bool) {
	if given {
		*n = append(*n, field+" is ignored: it has no meaning here")
	}
}

// all is never nil: clients read a list.
func (n notes) all() []string { return append([]string{}, n...) }

func (s containerService) create(w *answer, r *http.Request) error {
	var c createBody
	if err := decode(w, r, &c); err != nil {
		return err
	}
	if c.Config == nil && len(c.Cmd)+len(c.Entrypoint) == 0 {
		return invalid("body", "", "Config cannot be empty in order to create a container", "name an image")
	}
	wanted, warnings, err := c.spec()
	if err != nil {
		return err
	}
	q := r.URL.Query()
	wanted.Name, wanted.Platform = strings.TrimPrefix(q.Get("name"), "/"), q.Get("platform")
	id, further, err := s.cfg.Containers.Create(r.Context(), wanted)
	if err != nil {
		return cannotCreate(err, wanted.Image)
	}
	return w.json(http.StatusCreated, container.CreateResponse{ID: id, Warnings: append(warnings.all(), further...)})
}

// cannotCreate makes the difference between a missing image, which clients pull, and anything else that is missing.
func cannotCreate(err error, ref string) error {
	if !errors.Is(err, cnm.ErrNotFound) {
		return err
	}
	told, other := errors.AsType[*cnm.Error](err)
	if _, none := errors.AsType[*image.NotFoundError](err); !none && other && told.Field != "image" {
		return &refusal{status: http.StatusBadRequest, text: err.Error()}
	}
	if last := ref[strings.LastIndexByte(ref, '/')+1:]; !strings.ContainsAny(last, ":@") {
		ref += ":latest"
	}
	return &refusal{status: http.StatusNotFound, text: "No such image: " + ref}
}

// spec is what is asked of the container.
func (c createBody) spec() (engine.Spec, notes, error) {
	var n notes
	conf := container.Config{}
	if c.Config != nil {
		conf = *c.Config
	}
	out := engine.Spec{
		Image: conf.Image, Command: c.Cmd, Entrypoint: c.Entrypoint, Env: conf.Env, WorkDir: conf.WorkingDir,
		User: conf.User, Hostname: conf.Hostname, TTY: conf.Tty, OpenStdin: conf.OpenStdin, StdinOnce: conf.StdinOnce,
		StopSignal: conf.StopSignal, StopTimeout: decodeStopTimeout(conf.StopTimeout), Labels: conf.Labels,
		Health: decodeHealthcheck(conf.Healthcheck),
		Client: engine.ClientNotes{AttachStdin: conf.AttachStdin, AttachStdout: conf.AttachStdout,
			AttachStderr: conf.AttachStderr},
	}
	n.ignored("ArgsEscaped", conf.ArgsEscaped)
	n.ignored("OnBuild", len(conf.OnBuild) > 0)
	n.ignored("Shell", len(conf.Shell) > 0)
	if err := c.HostConfig.into(&out, &n); err != nil {
		return out, n, err
	}
	out.Domainname = conf.Domainname
	var err error
	if out.Expose, err = decodeExposed(c.ExposedPorts); err != nil {
		return out, n, err
	}
	if out.Ports, err = decodeBindings(c.HostConfig.PortBindings); err != nil {
		return out, n, err
	}
	if out.Mounts, err = c.mounts(conf.Volumes, &n); err != nil {
		return out, n, err
	}
	err = c.networks(&out, conf.NetworkDisabled)
	return out, n, err
}

// A container that is killed at once, and one that is never, as a timeout of the engine's.
const (
	atOnce = time.Nanosecond
	never  = time.Duration(math.MaxInt64)
)

func decodeStopTimeout(seconds *int) time.Duration {
	switch {
	case seconds == nil:
		return 0
	case *seconds == 0:
		return atOnce
	case *seconds < 0:
		return never
	}
	return wholeSeconds(*seconds)
}

func encodeStopTimeout(d time.Duration) *int {
	switch {
	case d == 0:
		return nil
	case d == never:
		return new(-1)
	}
	return new(int(d / time.Second))
}

func decodeHealthcheck(h *container.HealthConfig) *engine.Healthcheck {
	if h == nil {
		return nil
	}
	return &engine.Healthcheck{Test: h.Test, Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod,
		StartInterval: h.StartInterval, Retries: h.Retries}
}

func encodeHealthcheck(h *engine.Healthcheck) *container.HealthConfig {
	if h == nil {
		return nil
	}
	return &spec.HealthcheckConfig{Test: h.Test, Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod,
		StartInterval: h.StartInterval, Retries: h.Retries}
}

// networks are those that the container is on: that of the NetworkMode first, then the others by name.
func (c createBody) networks(out *engine.Spec, disabled bool) error {
	mode := string(c.HostConfig.NetworkMode)
	if disabled {
		mode = cnm.NetworkNone
	}
	given := map[string]cnm.AttachRequest{}
	if c.NetworkingConfig != nil {
		for _, name := range sortedKeys(c.NetworkingConfig.EndpointsConfig) {
			e := c.NetworkingConfig.EndpointsConfig[name].Copy()
			if name == container.NetworkMode("default").NetworkName() {
				name = cnm.NetworkBridge
			}
			if e != nil {
				out.Links = append(out.Links, e.Links...)
				e.Links = nil
			}
			a, err := decodeEndpoint(name, e)
			if err != nil {
				return err
			}
			given[name] = a
		}
	}
	if mode == "" || mode == "default" {
		mode = cnm.NetworkBridge
		if _, there := given[mode]; len(given) > 0 && !there {
			mode = sortedKeys(given)[0]
		}
	}
	first, there := given[mode]
	if !there {
		first = cnm.AttachRequest{Network: mode}
	}
	delete(given, mode)
	if c.MacAddress != "" && first.MAC == (plan.MAC{}) {
		if err := decodeMAC(c.MacAddress, &first.MAC); err != nil {
			return err
		}
	}
	out.Networks = []cnm.AttachRequest{first}
	for _, name := range sortedKeys(given) {
		out.Networks = append(out.Networks, given[name])
	}
	return nil
}
