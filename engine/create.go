package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/engine/shim"
)

// defaultNetwork is what a container joins that names none.
const defaultNetwork = "bridge"

// anonymousLabel marks volumes that were made for one container.
const anonymousLabel = "vethloom.anonymous"

// Create makes a container that does not run yet. The warnings are about what
// was asked for and will not be as expected.
func (e *creator) Create(ctx context.Context, s Spec) (Container, []string, error) {
	img, err := e.c.Images.Resolve(ctx, s.Image)
	if err != nil {
		return Container{}, nil, err
	}
	s = cloneSpec(s)
	if err := e.check(&s, img); err != nil {
		return Container{}, nil, err
	}
	rec := record{Container: Container{Spec: s, ImageID: img.ID, Created: time.Now().UTC(), Status: Created,
		Phase: cnm.Active}}
	c, err := e.reserve(&rec, img)
	if err != nil {
		return Container{}, nil, err
	}
	defer func() { <-c.op }()
	// The image may have been removed since it was found; from the reservation on the container keeps it.
	err = e.c.Images.Confirm(ctx, img.ID)
	if err == nil {
		err = os.Mkdir(c.dir, 0o700)
	}
	if err == nil {
		err = e.makeVolumes(ctx, rec)
	}
	if err == nil {
		err = e.put(ctx, c, &rec)
	}
	if err != nil {
		e.forget(c)
		return Container{}, nil, errors.Join(fmt.Errorf("create container %s: %w", rec.Spec.Name, err),
			os.RemoveAll(c.dir))
	}
	e.emit(c, "create", nil)
	return rec.Container, e.warnings(rec.Spec), nil
}

// reserve gives the record its ID and name, and enters it. The container is locked: who finds it by its name before its
// record is written has to wait.
func (e *creator) reserve(rec *record, img image.Image) (*container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := errors.Join(e.addMountsFrom(rec), rec.addImageVolumes(img)); err != nil {
		return nil, err
	}
	id, err := e.newID()
	if err != nil {
		return nil, err
	}
	rec.ID = id
	if rec.Sandbox == "" {
		rec.Sandbox = id
	}
	if ref := joinedContainer(rec.Spec); ref != "" {
		target := e.containers[e.names[ref]]
		if target == nil {
			target = e.byID(ref)
		}
		if target == nil {
			return nil, notFound(ref)
		}
		// The ID, so that the container of that name tomorrow is not meant.
		rec.Spec.Networks = []cnm.AttachRequest{{Network: joinPrefix + target.id}}
		rec.Sandbox = target.rec.Sandbox
	}
	if err := e.resolveJoins(&rec.Spec); err != nil {
		return nil, err
	}
	if rec.Spec.UserNS == "auto" {
		if err := passable(e.c.Root); err != nil {
			return nil, err
		}
		if rec.IDMap, err = e.freeIDs(); err != nil {
			return nil, err
		}
	}
	if rec.Spec.Name == "" {
		if rec.Spec.Name, err = e.randomName(); err != nil {
			return nil, err
		}
	}
	if err := e.nameFree(rec.Spec.Name); err != nil {
		return nil, err
	}
	c := e.newContainer(*rec)
	c.op <- struct{}{}
	e.containers[id], e.names[rec.Spec.Name] = c, id
	return c, nil
}

// byID finds a container by ID or an unambiguous beginning. The caller holds the mutex.
func (e *creator) byID(ref string) *container {
	var found *container
	for id, c := range e.containers {
		if cnm.Begins(id, ref) {
			if found != nil {
				return nil
			}
			found = c
		}
	}
	return found
}

// The IDs of containers with a user namespace of their own: blocks above what
// accounts and the usual /etc/subuid ranges use.
const (
	idBlock = 1 << 16
	firstID = 1 << 30
	idEnd   = 1 << 31
)

// passable refuses a user namespace whose root could not reach its root filesystem:
// the mode of the directories above it is that for others.
func passable(dir string) error {
	for ; ; dir = filepath.Dir(dir) {
		st, err := os.Stat(dir)
		if err != nil {
			return fmt.Errorf("look at the state directory: %w", err)
		}
		if st.Mode()&0o001 == 0 {
			return &cnm.Error{Kind: cnm.ErrForbidden, Field: "userns", Value: "auto", Reason: dir +
				" can be entered by its owner and group only, and the container's root is neither",
				Remedy: "chmod o+x " + dir + ", or choose another --root for netd"}
		}
		if dir == "/" || dir == "." {
			return nil
		}
	}
}

// freeIDs finds a block of IDs that no container has. The caller holds the mutex.
func (e *creator) freeIDs() (*shim.IDMap, error) {
	taken := map[uint32]bool{}
	for _, c := range e.containers {
		if c.rec.IDMap != nil {
			taken[c.rec.IDMap.HostID] = true
		}
	}
	for id := uint32(firstID); id < idEnd; id += idBlock {
		if !taken[id] {
			return &shim.IDMap{HostID: id, Size: idBlock}, nil
		}
	}
	return nil, &cnm.Error{Kind: cnm.ErrExhausted, Field: "userns", Value: "auto",
		Reason: "every block of user IDs is in use", Remedy: "remove containers that are not needed"}
}

func cloneSpec(s Spec) Spec {
	s.Command, s.Entrypoint, s.Env = slices.Clone(s.Command), slices.Clone(s.Entrypoint), slices.Clone(s.Env)
	s.Networks, s.Ports, s.Mounts = slices.Clone(s.Networks), slices.Clone(s.Ports), slices.Clone(s.Mounts)
	s.CapAdd, s.CapDrop = slices.Clone(s.CapAdd), slices.Clone(s.CapDrop)
	s.DNS, s.ExtraHosts, s.Labels = slices.Clone(s.DNS), slices.Clone(s.ExtraHosts), maps.Clone(s.Labels)
	s.DNSSearch, s.DNSOptions, s.Expose = slices.Clone(s.DNSSearch), slices.Clone(s.DNSOptions), slices.Clone(s.Expose)
	for i, m := range s.Mounts {
		s.Mounts[i].DriverOptions, s.Mounts[i].Labels = maps.Clone(m.DriverOptions), maps.Clone(m.Labels)
	}
	s.Sysctls, s.LogOptions = maps.Clone(s.Sysctls), maps.Clone(s.LogOptions)
	s.Ulimits, s.Groups, s.Devices = slices.Clone(s.Ulimits), slices.Clone(s.Groups), slices.Clone(s.Devices)
	s.DeviceRules = slices.Clone(s.DeviceRules)
	return s
}

// check refuses what can never run, and fills in what was left open.
func (e *creator) check(s *Spec, img image.Image) error {
	if s.Name != "" {
		if err := cnm.CheckName("name", s.Name); err != nil {
			return err
		}
	}
	if len(arguments(*s, img)) == 0 {
		return invalid("command", "", "neither the image nor the request says what to run", "give a command")
	}
	if s.Hostname != "" && !validHostname(s.Hostname) {
		return invalid("hostname", s.Hostname, "not a host name", "use at most 64 letters, digits, '-' and '.'")
	}
	if s.WorkDir != "" && !path.IsAbs(s.WorkDir) {
		return invalid("workdir", s.WorkDir, "not an absolute path", "begin it with /")
	}
	if s.Runtime != "" {
		return &cnm.Error{Kind: errors.ErrUnsupported, Field: "runtime", Value: s.Runtime,
			Reason: "netd runs containers by its own runtime alone", Remedy: "leave it out"}
	}
	switch s.UserNS {
	case "", "host", "auto":
	default:
		return invalid("userns", s.UserNS, "unknown mode", "use host or auto")
	}
	if s.UserNS == "auto" && s.Privileged {
		return invalid("userns", s.UserNS, "a privileged container has the host's users", "leave out one of the two")
	}
	caps, err := capabilitySet(s.CapAdd, s.CapDrop)
	if err != nil {
		return err
	}
	if s.PublishAll {
		publishAll(s, img)
	}
	if wantsInit(*s) {
		_, err = initProgram()
	}
	return errors.Join(err, checkProcess(*s), s.Restart.check(s.Remove), checkHealth(s.Health), checkLimits(*s),
		checkNamespaces(s), checkSecurity(*s, caps), checkDevices(*s), checkLog(*s),
		e.checkCgroupParent(s.CgroupParent), checkNetworks(s), checkSysctls(*s), checkMounts(*s),
		checkExtraHosts(s.ExtraHosts), checkDNS(*s), e.checkLinks(s.Links))
}

func checkProcess(s Spec) error {
	if s.StopSignal != "" {
		if _, err := parseSignal(s.StopSignal); err != nil {
			return err
		}
	}
	for _, kv := range s.Env {
		if name, _, _ := strings.Cut(kv, "="); name == "" {
			return invalid("env", kv, "no name before '='", "write NAME=value")
		}
	}
	return nil
}

// publishAll adds a mapping for each port that a container serves and publishes nowhere yet. Where none can be
// published there is none to add: on the host's network, for example, they are all open.
func publishAll(s *Spec, img image.Image) {
	if len(s.Networks) == 1 {
		alone := s.Networks[0].Network
		if alone == cnm.NetworkHost || alone == cnm.NetworkNone || strings.HasPrefix(alone, joinPrefix) {
			return
		}
	}
	for _, p := range serves(*s, img) {
		if !slices.ContainsFunc(s.Ports, func(m cnm.PortMapping) bool {
			return m.Proto == p.Proto && p.Port >= m.Port && p.Port-m.Port < m.Count
		}) {
			s.Ports = append(s.Ports, cnm.PortMapping{Proto: p.Proto, Port: p.Port, Count: 1, Dynamic: true})
		}
	}
}

func validHostname(name string) bool {
	return name != "" && len(name) <= 64 && !strings.ContainsAny(name, " \t\n/\x00")
}

func checkNetworks(s *Spec) error {
	if len(s.Networks) == 0 {
		s.Networks = []cnm.AttachRequest{{Network: defaultNetwork}}
	}
	alone := ""
	for _, n := range s.Networks {
		if err := n.Check(); err != nil {
			return err
		}
		if n.Network == "host" || n.Network == "none" || strings.HasPrefix(n.Network, joinPrefix) {
			alone = n.Network
		}
	}
	if alone == "" {
		return cnm.CheckLinkNames(s.Networks)
	}
	n := s.Networks[0]
	switch {
	case len(s.Networks) > 1:
		return invalid("network", alone, "it cannot be combined with other networks", "leave it or the others out")
	case len(s.Ports) > 0 && alone == "host":
		return invalid("publish", s.Ports[0].String(),
			"with network host, the container has the host's ports already",
			"leave the ports out: what listens in it is reachable")
	case len(s.Ports) > 0 && alone == "none":
		return invalid("publish", s.Ports[0].String(), "a container on network none reaches nothing",
			"choose a bridge network")
	case len(s.Ports) > 0:
		return invalid("publish", s.Ports[0].String(), "the ports belong to the container whose network is shared",
			"publish them there")
	case len(n.Addrs) > 0 || len(n.Aliases) > 0 || n.MAC != [6]byte{} || n.LinkOptions.Given():
		return invalid("network", alone, "addresses, aliases and link options cannot be chosen on it", "leave them out")
	case strings.HasPrefix(alone, joinPrefix) && s.Hostname != "":
		return invalid("hostname", s.Hostname, "it is that of the container whose network is shared", "leave it out")
	case strings.HasPrefix(alone, joinPrefix) && len(s.DNS) > 0:
		return invalid("dns", s.DNS[0].String(), "it is up to the container whose network is shared", "set it there")
	case strings.HasPrefix(alone, joinPrefix) && len(s.DNSSearch)+len(s.DNSOptions) > 0:
		return invalid("dns-search", strings.Join(append(s.DNSSearch, s.DNSOptions...), " "),
			"it is up to the container whose network is shared", "set it there")
	case strings.HasPrefix(alone, joinPrefix) && len(s.Links) > 0:
		return invalid("link", s.Links[0], "it is up to the container whose network is shared", "set it there")
	case strings.HasPrefix(alone, joinPrefix) && len(s.ExtraHosts) > 0:
		return invalid("add-host", s.ExtraHosts[0], "it is up to the container whose network is shared", "set it there")
	case alone == joinPrefix:
		return invalid("network", alone, "no container named", "write container:NAME")
	}
	return nil
}

// makeVolumes makes the volumes of a container. When that fails, those that were made for it alone go again.
func (e *creator) makeVolumes(ctx context.Context, rec record) error {
	for _, m := range rec.Spec.Mounts {
		if !m.Volume {
			continue
		}
		if _, _, err := e.c.Volumes.Ensure(ctx, volumeRequest(m)); err != nil {
			return errors.Join(err, e.dropVolumes(context.WithoutCancel(ctx), rec))
		}
	}
	return nil
}

// addImageVolumes makes an anonymous volume for each path the image wants one
// at and the request gave none for.
func (r *record) addImageVolumes(img image.Image) error {
	taken := map[string]bool{}
	for i, m := range r.Spec.Mounts {
		taken[path.Clean(m.Target)] = true
		if m.Volume && m.Source == "" { // -v /data
			name, err := randomHex(32)
			if err != nil {
				return err
			}
			r.Spec.Mounts[i].Source = name
			r.Anonym = append(r.Anonym, name)
		}
	}
	for _, target := range slices.Sorted(maps.Keys(img.Config.Volumes)) {
		if taken[path.Clean(target)] || !path.IsAbs(target) || path.Clean(target) == "/" {
			continue
		}
		taken[path.Clean(target)] = true
		name, err := randomHex(32)
		if err != nil {
			return err
		}
		r.Spec.Mounts = append(r.Spec.Mounts, Mount{Source: name, Target: target, Volume: true})
		r.Anonym = append(r.Anonym, name)
	}
	return nil
}

func (e *creator) warnings(s Spec) []string {
	var out []string
	if w := e.withoutNames(s); w != "" {
		out = append(out, w)
	}
	if s.Init && !wantsInit(s) {
		out = append(out, "init: with pid "+s.PidMode+" the first process is another's: it is left out")
	}
	return append(append(out, limitWarnings(s.Resources)...), logWarnings(s)...)
}

// withoutNames warns of a container with networks of its own that can look up no name.
func (e *creator) withoutNames(s Spec) string {
	if alone := s.Networks[0].Network; alone == "host" || alone == "none" || joinedContainer(s) != "" {
		return ""
	}
	_, servers, err := e.resolvConf(s, false)
	switch {
	case err != nil:
		return err.Error()
	case servers > 0:
		return ""
	}
	return "no name server: " + e.c.Resolv[0] + " of the host names none: only names of containers are looked up; " +
		"give one with --dns"
}

// arguments are what runs: entrypoint and command of the request, or else the
// image's. An entrypoint in the request voids the image's command.
func arguments(s Spec, img image.Image) []string {
	entrypoint, command := s.Entrypoint, s.Command
	if len(entrypoint) == 0 {
		entrypoint = img.Config.Entrypoint
		if len(command) == 0 {
			command = img.Config.Cmd
		}
	}
	if len(entrypoint) == 1 && entrypoint[0] == "" { // given as empty: none
		entrypoint = nil
	}
	return append(slices.Clone(entrypoint), command...)
}
