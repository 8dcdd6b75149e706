package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/flagspec"
	"github.com/vethloom/vethloom/internal/cli/show"
)

// hostFlags are flags of run and create beyond those of the command, its network and its files.
type hostFlags struct {
	security    []string
	noHealth    bool
	healthCmd   string
	health      apiv1.Healthcheck
	attach      []string
	logOptions  []string
	annotations []string
	labelFiles  []string
}

func (o *hostFlags) flags(cmd *cobra.Command, s *apiv1.ContainerSpec) {
	f := cmd.Flags()
	o.healthFlags(f)
	one(f, "restart", "", "string", "when to start it again: no, always, unless-stopped, on-failure[:RETRIES] "+
		"(default no)", &s.Restart, flagspec.Restart)
	f.BoolVar(&s.Init, "init", false, "an init of the host is its first process, which takes care of orphans")
	f.StringVar(&s.LogDriver, "log-driver", "", "where its output is kept: json-file, none (default json-file)")
	f.StringArrayVar(&o.logOptions, "log-opt", nil, "option of the log, such as max-size=10m")
	f.StringArrayVarP(&o.attach, "attach", "a", nil, "stdin, stdout or stderr: only these are connected")
	f.StringVar(&s.Cidfile, "cidfile", "", "file that the container's ID is written to; it must not exist")
	f.StringArrayVar(&o.labelFiles, "label-file", nil, "file with lines as --label takes them")
	f.StringArrayVar(&o.annotations, "annotation", nil, "annotation KEY=VALUE for an OCI runtime")
	f.StringVar(&s.Runtime, "runtime", "", "OCI runtime; refused, as netd runs containers by its own alone")
	several(f, "link", "CONTAINER[:ALIAS]: a further name for a container on the same network", &s.Links,
		flagspec.Link)

	several(f, "device", "device of the host, SOURCE[:TARGET][:rwm]", &s.Devices, flagspec.Device)
	several(f, "device-cgroup-rule", "further devices that may be used, such as 'c 10:200 rwm'", &s.DeviceRules,
		flagspec.DeviceRule)
	several(f, "ulimit", "limit of setrlimit(2), NAME=SOFT[:HARD]", &s.Ulimits, flagspec.Ulimit)
	one(f, "shm-size", "", "bytes", "size of /dev/shm (default 64m)", &s.ShmSize, flagspec.Size)
	f.Int32Var(&s.OomScoreAdj, "oom-score-adj", 0, "-1000 to 1000: the more, the sooner it is killed for memory")
	f.StringArrayVar(&s.GroupAdd, "group-add", nil, "further group of its processes, by name or ID")
	f.StringVar(&s.Domainname, "domainname", "", "NIS domain name")
	f.StringArrayVar(&o.security, "security-opt", nil, "seccomp=FILE, seccomp=unconfined, apparmor=PROFILE, "+
		"no-new-privileges, systempaths=unconfined")
	f.StringVar(&s.PidMode, "pid", "", "whose processes it sees: host, container:NAME (default its own)")
	f.StringVar(&s.IpcMode, "ipc", "", "whose shared memory it has: private, shareable, none, host, container:NAME")
	f.StringVar(&s.UtsMode, "uts", "", "whose host name it has: host (default its own)")
	f.StringVar(&s.CgroupnsMode, "cgroupns", "", "whose cgroups it sees: private, host (default private)")
	f.StringVar(&s.CgroupParent, "cgroup-parent", "", "cgroup that its own is made in (default netd's)")
	deviceLimitFlags(f, s.Resources)
	show.Must(cmd.RegisterFlagCompletionFunc("restart", show.Fixed("no", "always", "unless-stopped", "on-failure")))
	show.Must(cmd.RegisterFlagCompletionFunc("attach", show.Fixed("stdin", "stdout", "stderr")))
	refusedFlags(cmd)
}

// refusedFlags are Docker's that mean nothing here, which is said rather than passed over.
func refusedFlags(cmd *cobra.Command) {
	refused(cmd, "storage-opt", "the root filesystem has no size of its own: use a quota of the file system")
	refused(cmd, "isolation", "it is for Windows")
	refused(cmd, "gpus", "there is nothing that brings drivers of GPUs: use --device for what the host has in /dev")
	refused(cmd, "link-local-ip", "links have the link-local address that the kernel gives them")
	f := cmd.Flags()
	f.Bool("disable-content-trust", true, "ignored: images are known by their digests")
	show.Must(f.MarkHidden("disable-content-trust"))
}

func (o *hostFlags) healthFlags(f *pflag.FlagSet) {
	f.StringVar(&o.healthCmd, "health-cmd", "", "line for the shell that finds out whether it does its work")
	h := &o.health
	one(f, "health-interval", "", "duration", "time between two checks (default 30s)", &h.Interval, span)
	one(f, "health-timeout", "", "duration", "time after which a check has failed (default 30s)", &h.Timeout, span)
	one(f, "health-start-period", "", "duration", "time at the start in which failures do not count", &h.StartPeriod,
		span)
	one(f, "health-start-interval", "", "duration", "time between two checks in that period (default 5s)",
		&h.StartInterval, span)
	f.Int32Var(&h.Retries, "health-retries", 0, "failures in a row that make it unhealthy (default 3)")
	f.BoolVar(&o.noHealth, "no-healthcheck", false, "no checks, not those of the image either")
}

// apply completes a spec.
func (o *hostFlags) apply(cmd *cobra.Command, a *App, s *apiv1.ContainerSpec) (err error) {
	if err := o.applyHealth(cmd, s); err != nil {
		return err
	}
	if s.GetRemove() && s.GetRestart().GetName() != "" && s.GetRestart().GetName() != "no" {
		return errors.New("--rm and --restart: a container that is removed when it exits cannot be started again")
	}
	if s.LogOptions, err = flagspec.KeyValues("log-opt", o.logOptions); err != nil {
		return err
	}
	if s.Annotations, err = flagspec.KeyValues("annotation", o.annotations); err != nil {
		return err
	}
	for _, v := range o.security {
		if err := flagspec.Security(s, v, a.profile); err != nil {
			return fmt.Errorf("--security-opt %q: %w", v, err)
		}
	}
	return o.applyAttach(s)
}

func (o *hostFlags) applyHealth(cmd *cobra.Command, s *apiv1.ContainerSpec) error {
	var given []string
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if strings.HasPrefix(f.Name, "health-") {
			given = append(given, "--"+f.Name)
		}
	})
	switch {
	case o.noHealth && len(given) > 0:
		return fmt.Errorf("--no-healthcheck does not go with %s", strings.Join(given, ", "))
	case o.health.Retries < 0:
		return fmt.Errorf("--health-retries %d: use a positive number", o.health.Retries)
	case o.noHealth:
		s.Healthcheck = &apiv1.Healthcheck{Test: []string{"NONE"}}
	case len(given) > 0:
		s.Healthcheck = &o.health
		if o.healthCmd != "" {
			s.Healthcheck.Test = []string{"CMD-SHELL", o.healthCmd}
		}
	}
	return nil
}

// applyAttach notes which streams the client means to have.
func (o *hostFlags) applyAttach(s *apiv1.ContainerSpec) error {
	for _, stream := range o.attach {
		if !slices.Contains([]string{"stdin", "stdout", "stderr"}, strings.ToLower(stream)) {
			return fmt.Errorf("--attach %q: use stdin, stdout or stderr", stream)
		}
	}
	has := func(stream string) bool {
		return slices.ContainsFunc(o.attach, func(s string) bool { return strings.EqualFold(s, stream) })
	}
	if len(o.attach) == 0 {
		s.AttachStdin, s.AttachStdout, s.AttachStderr = s.GetOpenStdin(), true, true
		return nil
	}
	s.AttachStdin, s.AttachStdout, s.AttachStderr = has("stdin"), has("stdout"), has("stderr")
	return nil
}

// profileSize bounds a seccomp profile.
const profileSize = 4 << 20

// profile reads a seccomp profile, without the white space.
func (a *App) profile(name string) (text string, err error) {
	path, err := a.path(name)
	if err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("open the seccomp profile: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b, err := io.ReadAll(io.LimitReader(f, profileSize+1))
	if err != nil {
		return "", fmt.Errorf("read the seccomp profile: %w", err)
	}
	if len(b) > profileSize {
		return "", fmt.Errorf("the seccomp profile %s has more than %d MiB", name, profileSize>>20)
	}
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		return "", fmt.Errorf("the seccomp profile %s is not JSON: %w", name, err)
	}
	return out.String(), nil
}

// path is where a file is that the user names.
func (a *App) path(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	dir, err := a.workingDir()
	return filepath.Join(dir, name), err
}
