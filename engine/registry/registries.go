package registry

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// registriesFile is a registries.conf of version 2: containers-registries.conf(5).
type registriesFile struct {
	Registry []registryTable `toml:"registry"`
	// Version 1, of which only what restricts is of interest.
	Registries struct {
		Insecure struct {
			Registries []string `toml:"registries"`
		} `toml:"insecure"`
		Block struct {
			Registries []string `toml:"registries"`
		} `toml:"block"`
	} `toml:"registries"`
}

type registryTable struct {
	Prefix             string        `toml:"prefix"`
	Location           string        `toml:"location"`
	Insecure           bool          `toml:"insecure"`
	Blocked            bool          `toml:"blocked"`
	MirrorByDigestOnly bool          `toml:"mirror-by-digest-only"`
	Mirror             []mirrorTable `toml:"mirror"`
}

type mirrorTable struct {
	Location       string `toml:"location"`
	Insecure       bool   `toml:"insecure"`
	PullFromMirror string `toml:"pull-from-mirror"`
}

// registryMatch is what registries.conf says of a reference.
type registryMatch struct {
	found, blocked bool
	file           string
	table          registryTable
	rest           string // of the reference, after the prefix
}

// registries finds the table with the longest prefix of a reference. A later file's table of a prefix replaces an
// earlier one's.
func (s settings) registries(ref reference) (registryMatch, error) {
	paths, err := s.registriesFiles()
	if err != nil {
		return registryMatch{}, err
	}
	type place struct {
		table registryTable
		file  string
	}
	tables := map[string]place{}
	for _, path := range paths {
		data, err := readFile(path)
		if isMissing(err) {
			continue
		}
		if err != nil {
			return registryMatch{}, fmt.Errorf("read the settings of registries: %w", err)
		}
		f, err := parseRegistries(path, data)
		if err != nil {
			return registryMatch{}, fmt.Errorf("read the settings of registries: %w", err)
		}
		for _, t := range f.Registry {
			tables[t.Prefix] = place{t, path}
		}
	}
	best, longest := registryMatch{}, -1
	for prefix, p := range tables {
		if n, ok := matchPrefix(prefix, ref); ok && len(prefix) > longest {
			longest = len(prefix)
			best = registryMatch{true, p.table.Blocked, p.file, p.table, ref.name()[n:]}
		}
	}
	return best, nil
}

// registriesFiles are the files in the order they are read; of a folder, those whose names end with .conf.
func (s settings) registriesFiles() ([]string, error) {
	var all []string
	for _, path := range s.files {
		entries, err := os.ReadDir(path)
		if isMissing(err) {
			if info, err := os.Stat(path); err == nil && !info.IsDir() {
				all = append(all, path)
			}
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the settings of registries: %w", err)
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".conf") {
				all = append(all, filepath.Join(path, e.Name()))
			}
		}
	}
	return all, nil
}

// parseRegistries reads a registries.conf.
func parseRegistries(path string, data []byte) (registriesFile, error) {
	var f registriesFile
	if _, err := decode(path, data, &f); err != nil {
		return f, err
	}
	if old := append(f.Registries.Insecure.Registries, f.Registries.Block.Registries...); len(old) > 0 {
		return f, settingError(path, "[registries]", strings.Join(old, ", "), "is the format of version 1",
			"write [[registry]] tables with prefix, insecure and blocked; see containers-registries.conf(5)")
	}
	for i := range f.Registry {
		if err := f.Registry[i].check(path, i); err != nil {
			return f, err
		}
	}
	return f, nil
}

// check completes a table and refuses what cannot be.
func (t *registryTable) check(path string, i int) error {
	where := fmt.Sprintf("[[registry]] number %d", i+1)
	if t.Prefix == "" {
		t.Prefix = t.Location
	}
	t.Prefix, t.Location = strings.TrimRight(t.Prefix, "/"), strings.TrimRight(t.Location, "/")
	if !validLocation(strings.TrimPrefix(t.Prefix, "*.")) {
		return settingError(path, where+": prefix", t.Prefix, "is no host with a path",
			"write one such as example.org/team or *.example.org")
	}
	if t.Location != "" && !validLocation(t.Location) {
		return settingError(path, where+": location", t.Location, "is no host with a path",
			"write one such as registry.example/team, without https://")
	}
	for j, m := range t.Mirror {
		mirror := fmt.Sprintf("%s: [[registry.mirror]] number %d: ", where, j+1)
		t.Mirror[j].Location = strings.TrimRight(m.Location, "/")
		if !validLocation(t.Mirror[j].Location) {
			return settingError(path, mirror+"location", m.Location, "is no host with a path",
				"write one such as mirror.example:5000/hub, without https://")
		}
		if !slices.Contains([]string{"", "all", "digest-only", "tag-only"}, m.PullFromMirror) {
			return settingError(path, mirror+"pull-from-mirror", m.PullFromMirror, "is not known",
				"use all, digest-only or tag-only")
		}
		if m.PullFromMirror != "" && t.MirrorByDigestOnly {
			return settingError(path, mirror+"pull-from-mirror", m.PullFromMirror,
				"is given besides mirror-by-digest-only", "remove one of them")
		}
	}
	return nil
}

// validLocation reports whether text is host[:port][/path].
func validLocation(text string) bool {
	host, path, _ := strings.Cut(text, "/")
	if !validHost.MatchString(host) {
		return false
	}
	for part := range strings.SplitSeq(path, "/") {
		if strings.Trim(part, "._-") == "" && path != "" {
			return false
		}
	}
	return !strings.ContainsAny(path, " ?#%\\\x00\n\r\t")
}

// matchPrefix reports whether a prefix is one of a reference, and how many bytes of the reference's name it covers.
func matchPrefix(prefix string, ref reference) (int, bool) {
	if suffix, ok := strings.CutPrefix(prefix, "*."); ok {
		host, path, _ := strings.Cut("."+suffix, "/")
		if !strings.HasSuffix(ref.host, host) || len(ref.host) <= len(host) {
			return 0, false
		}
		if path == "" {
			return len(ref.host), true
		}
		n := len(ref.host) + 1 + len(path)
		return min(n, len(ref.name())), atBorder(path, ref.repository)
	}
	if prefix == ref.full() {
		return len(ref.name()), true
	}
	host, path, _ := strings.Cut(prefix, "/")
	if canonicalHost(host) != ref.host {
		return 0, false
	}
	if path == "" {
		return len(ref.host), true
	}
	return min(len(ref.host)+1+len(path), len(ref.name())), atBorder(path, ref.repository)
}

// atBorder reports whether a path is another one, or a folder that it is in.
func atBorder(path, repository string) bool {
	return path == repository || strings.HasPrefix(repository, path+"/")
}

// endpoints are the mirrors, then the registry's location; a push goes to the registry that was named, wherever pulls
// are led to.
func (m registryMatch) endpoints(ref reference, push bool) ([]endpoint, error) {
	if push {
		e := newEndpoint(ref.host, ref.repository)
		e.allowInsecure(m.table.Insecure)
		return []endpoint{e}, nil
	}
	var all []endpoint
	for _, mirror := range m.table.Mirror {
		digestOnly := mirror.PullFromMirror == "digest-only" || m.table.MirrorByDigestOnly
		if digestOnly && ref.digest == "" || mirror.PullFromMirror == "tag-only" && ref.digest != "" {
			continue
		}
		e := m.at(mirror.Location)
		e.allowInsecure(mirror.Insecure)
		e.Mirror = true
		all = append(all, e)
	}
	e := newEndpoint(ref.host, ref.repository)
	if m.table.Location != "" {
		e = m.at(m.table.Location)
	}
	e.allowInsecure(m.table.Insecure)
	return append(all, e), nil
}

// at is the endpoint where the prefix of a reference is replaced with a location.
func (m registryMatch) at(location string) endpoint {
	host, path, _ := strings.Cut(location+m.rest, "/")
	return newEndpoint(host, path)
}

// allowInsecure is registries.conf's word for certificates that are not verified, and plain HTTP where there is no TLS.
func (e *endpoint) allowInsecure(insecure bool) {
	if insecure {
		e.schemes, e.tls.skipVerify = []string{"https", "http"}, true
	}
}
