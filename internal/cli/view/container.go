package view

import (
	"cmp"
	"slices"
	"strings"
	"time"

	apiv1 "github.com/vethloom/vethloom/api/v1"
)

type containerView struct {
	ID              string `json:"Id"`
	Created         Moment
	Path            string
	Args            []string
	State           stateView
	Image           string // ID
	LogPath         string
	Name            string // with Docker's leading slash
	RestartCount    int32
	Driver          string
	Platform        string
	AppArmorProfile string
	ExecIDs         []string
	HostConfig      hostConfigView
	Mounts          []mountView
	Config          configView
	NetworkSettings networkSettingsView
	RootPath        string
	SizeRw          *int64 `json:",omitempty"` // where it is asked for
	SizeRootFs      *int64 `json:",omitempty"`
}

// Id is Docker's spelling in templates.
func (v containerView) Id() string { return v.ID } //nolint:staticcheck // templates say .Id

type stateView struct {
	Status     string
	Running    bool
	Paused     bool
	Restarting bool
	OOMKilled  bool
	Dead       bool
	Pid        int32
	ExitCode   int32
	Error      string
	StartedAt  Moment
	FinishedAt Moment
	Health     *checksView `json:",omitempty"`
}

type checksView struct {
	Status        string
	FailingStreak int32
	Log           []probeView
}

type probeView struct {
	Start, End Moment
	ExitCode   int32
	Output     string
}

type mountView struct {
	Type        string
	Name        string `json:",omitempty"`
	Source      string
	Destination string
	Driver      string `json:",omitempty"`
	Mode        string
	RW          bool
	Propagation string
}

type configView struct {
	Hostname     string
	Domainname   string
	User         string
	AttachStdin  bool
	AttachStdout bool
	AttachStderr bool
	ExposedPorts map[string]struct{} `json:",omitempty"`
	Tty          bool
	OpenStdin    bool
	StdinOnce    bool
	Env          []string
	Cmd          []string
	Healthcheck  *healthcheckView `json:",omitempty"`
	Image        string
	Volumes      map[string]struct{}
	WorkingDir   string
	Entrypoint   []string
	Labels       map[string]string
	StopSignal   string `json:",omitempty"`
	StopTimeout  *int64 `json:",omitempty"` // seconds
}

// WithSizes adds how much a container has written, and how much it has with its image.
func (v containerView) WithSizes(of func(container, image string) (written, whole int64)) any {
	written, whole := of(v.ID, v.Image)
	v.SizeRw, v.SizeRootFs = &written, &whole
	return v
}

// Container is what inspect shows of a container.
func Container(c *apiv1.Container) containerView {
	s := c.GetSpec()
	v := containerView{
		ID: c.GetId(), Created: Time(c.GetCreated()), Args: []string{}, Image: c.GetImageId(), LogPath: c.GetLogPath(),
		Name: "/" + s.GetName(), RootPath: c.GetRootPath(), RestartCount: c.GetRestartCount(), Driver: "overlayfs",
		Platform: "linux", AppArmorProfile: s.GetApparmor(), ExecIDs: c.GetExecIds(), State: state(c),
		Config: config(s), HostConfig: hostConfig(s),
		Mounts:          []mountView{},
		NetworkSettings: NetworkSettingsOf(c.GetSandbox()),
	}
	if args := c.GetArgs(); len(args) > 0 {
		v.Path, v.Args = args[0], args[1:]
	}
	for _, m := range s.GetMounts() {
		v.Mounts = append(v.Mounts, mount(m))
	}
	return v
}

func state(c *apiv1.Container) stateView {
	status := c.GetStatus()
	v := stateView{
		Status: status, Running: slices.Contains([]string{"running", "paused", "restarting"}, status),
		Paused: status == "paused", Restarting: status == "restarting", Dead: status == "dead",
		OOMKilled: c.GetOomKilled(), Pid: c.GetPid(), ExitCode: c.GetExitCode(), Error: c.GetError(),
		StartedAt: Time(c.GetStarted()), FinishedAt: Time(c.GetFinished()),
	}
	if h := c.GetHealth(); h != nil {
		v.Health = &checksView{Status: h.GetStatus(), FailingStreak: h.GetFailingStreak(), Log: []probeView{}}
		for _, p := range h.GetLog() {
			v.Health.Log = append(v.Health.Log, probeView{Time(p.GetStart()), Time(p.GetEnd()), p.GetExitCode(),
				p.GetOutput()})
		}
	}
	return v
}

func config(s *apiv1.ContainerSpec) configView {
	v := configView{
		Hostname: s.GetHostname(), Domainname: s.GetDomainname(), User: s.GetUser(), AttachStdin: s.GetAttachStdin(),
		AttachStdout: s.GetAttachStdout(), AttachStderr: s.GetAttachStderr(), Tty: s.GetTty(),
		OpenStdin: s.GetOpenStdin(), StdinOnce: s.GetStdinOnce(), Env: s.GetEnv(), Cmd: s.GetCommand(),
		Healthcheck: healthcheck(s.GetHealthcheck()), Image: s.GetImage(), WorkingDir: s.GetWorkDir(),
		Entrypoint: s.GetEntrypoint(), Labels: OrEmpty(s.GetLabels()), StopSignal: s.GetStopSignal(),
		ExposedPorts: set(s.GetExpose()),
	}
	for _, m := range s.GetMounts() {
		if m.GetVolume() && anonymous(m.GetSource()) {
			if v.Volumes == nil {
				v.Volumes = map[string]struct{}{}
			}
			v.Volumes[m.GetTarget()] = struct{}{}
		}
	}
	if t := s.GetStopTimeout(); t != nil {
		seconds := int64(t.AsDuration() / time.Second)
		v.StopTimeout = &seconds
	}
	return v
}

func set(names []string) map[string]struct{} {
	out := make(map[string]struct{}, len(names))
	for _, n := range names {
		out[n] = struct{}{}
	}
	return out
}

// anonymous reports whether a volume was made for a container, without a name.
func anonymous(name string) bool {
	return name == "" || len(name) == 64 && strings.Trim(name, "0123456789abcdef") == ""
}

// healthcheckView has durations in nanoseconds, as Docker has them.
type healthcheckView struct {
	Test          []string      `json:",omitempty"`
	Interval      time.Duration `json:",omitempty"`
	Timeout       time.Duration `json:",omitempty"`
	StartPeriod   time.Duration `json:",omitempty"`
	StartInterval time.Duration `json:",omitempty"`
	Retries       int32         `json:",omitempty"`
}

func healthcheck(h *apiv1.Healthcheck) *healthcheckView {
	if h == nil {
		return nil
	}
	return &healthcheckView{Test: h.GetTest(), Interval: h.GetInterval().AsDuration(),
		Timeout: h.GetTimeout().AsDuration(), StartPeriod: h.GetStartPeriod().AsDuration(),
		StartInterval: h.GetStartInterval().AsDuration(), Retries: h.GetRetries()}
}

func mount(m *apiv1.Mount) mountView {
	v := mountView{Type: "bind", Source: m.GetSource(), Destination: m.GetTarget(), RW: !m.GetReadOnly()}
	if m.GetReadOnly() {
		v.Mode = "ro"
	}
	switch {
	case m.GetTmpfs() != nil:
		v.Type = "tmpfs"
	case m.GetVolume():
		v.Type, v.Name, v.Source, v.Driver = "volume", m.GetSource(), m.GetPath(), Driver(m.GetDriver())
	default:
		v.Propagation = cmp.Or(m.GetPropagation(), "rprivate")
	}
	return v
}
