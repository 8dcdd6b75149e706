package registry

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// settings are the files that say how registries are reached. They are read at each use.
type settings struct {
	hostDirs []string // <dir>/<host[:port]>/hosts.toml, and certificates in the same folder
	files    []string // registries.conf, and folders of such files
}

// hostsFile is a hosts.toml of containerd.
type hostsFile struct {
	path     string
	fallback bool // it is that of _default, which names no host
	server   string
	root     hostFields
	order    []string // of mirrors, as URLs
	mirrors  map[string]hostFields
}

// hostFields are what hosts.toml says about one server.
type hostFields struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`
	Client       any            `toml:"client"`
	SkipVerify   bool           `toml:"skip_verify"`
	OverridePath bool           `toml:"override_path"`
	Header       map[string]any `toml:"header"`
}

// hosts reads the hosts.toml of a host, or of _default; nil where there is none.
func (s settings) hosts(host string) (*hostsFile, error) {
	for _, folder := range append(hostFolders(host), "_default") {
		for _, dir := range s.hostDirs {
			path := filepath.Join(dir, folder, "hosts.toml")
			data, err := readFile(path)
			if isMissing(err) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("read the settings of registry %s: %w", host, err)
			}
			f, err := parseHosts(path, data)
			if err != nil {
				return nil, fmt.Errorf("read the settings of registry %s: %w", host, err)
			}
			f.fallback = folder == "_default"
			return f, nil
		}
	}
	return nil, nil
}

// hostFolders are the names that the folder of a host may have.
func hostFolders(host string) []string {
	folders := []string{host}
	if i := strings.LastIndex(host, ":"); i > strings.LastIndex(host, "]") {
		folders = append(folders, host[:i]+"_"+host[i+1:]+"_") // containerd's own spelling
	}
	if host == dockerHub {
		folders = append(folders, dockerHubAddress)
	}
	return folders
}

// parseHosts reads a hosts.toml: containerd's docs/hosts.md.
func parseHosts(path string, data []byte) (*hostsFile, error) {
	var parsed struct {
		hostFields
		Server string                `toml:"server"`
		Host   map[string]hostFields `toml:"host"`
	}
	meta, err := decode(path, data, &parsed)
	if err != nil {
		return nil, err
	}
	f := &hostsFile{path: path, server: parsed.Server, root: parsed.hostFields, mirrors: parsed.Host}
	for _, key := range meta.Keys() {
		// The library takes anything for a table.
		if name := key[len(key)-1]; (len(key) == 1 && name == "host" || name == "header") &&
			meta.Type(key...) != "Hash" {
			return nil, settingError(path, key.String(), meta.Type(key...), "is no table", "write ["+key.String()+"]")
		}
		if len(key) > 1 && key[0] == "host" && !slices.Contains(f.order, key[1]) {
			f.order = append(f.order, key[1])
		}
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	return f, nil
}

// check finds out what is wrong before anything is asked for.
func (f *hostsFile) check() error {
	if _, err := f.endpoint("server", cmp.Or(f.server, "https://example.org"), f.root, reference{}); err != nil {
		return err
	}
	for _, u := range f.order {
		if _, err := f.endpoint(fmt.Sprintf("[host.%q]", u), u, f.mirrors[u], reference{}); err != nil {
			return err
		}
	}
	return nil
}

// endpoints are the mirrors in the file's order, and the server last; the server alone for a push.
func (f *hostsFile) endpoints(ref reference, push bool) ([]endpoint, error) {
	last := newEndpoint(ref.host, ref.repository)
	var err error
	if f.server != "" {
		last, err = f.endpoint("server", f.server, f.root, ref)
	} else {
		err = f.apply(&last, "", f.root)
	}
	if err != nil {
		return nil, err
	}
	last.ns, last.Mirror = "", false
	if push {
		if !able(f.root, "push") {
			return nil, settingError(f.path, "capabilities", strings.Join(f.root.Capabilities, ", "), "leaves out push",
				`add "push" there to push to this registry`)
		}
		return []endpoint{last}, nil
	}
	var all []endpoint
	for _, u := range f.order {
		e, err := f.endpoint(fmt.Sprintf("[host.%q]", u), u, f.mirrors[u], ref)
		if err != nil {
			return nil, err
		}
		if e.address == last.address && e.base == last.base {
			continue // it is the server, which comes last
		}
		if able(f.mirrors[u], "pull") || able(f.mirrors[u], "resolve") {
			all = append(all, e)
		}
	}
	if able(f.root, "pull") || able(f.root, "resolve") || len(all) == 0 {
		all = append(all, last)
	}
	return all, nil
}

// endpoint is one server of the file.
func (f *hostsFile) endpoint(where, address string, fields hostFields, ref reference) (endpoint, error) {
	bad := func(reason string) (endpoint, error) {
		return endpoint{}, settingError(f.path, where, address, reason,
			"write a URL such as https://mirror.example:5000")
	}
	if !strings.Contains(address, "://") {
		address = "https://" + address
	}
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return bad("is not a URL")
	case u.Scheme != "https" && u.Scheme != "http":
		return bad("is neither https nor http")
	case !validHost.MatchString(u.Host):
		return bad("has no proper host")
	case u.User != nil:
		return bad("has a user's name; credentials belong into Docker's configuration ('net login')")
	case u.RawQuery != "" || u.Fragment != "":
		return bad("has more than a path")
	}
	e := newEndpoint(u.Host, ref.repository)
	e.schemes = []string{u.Scheme}
	e.Mirror = true
	if e.Host != ref.host {
		e.ns = ref.host
	}
	return e, f.apply(&e, strings.TrimRight(u.Path, "/"), fields)
}

// apply puts what the file says about a server into its endpoint.
func (f *hostsFile) apply(e *endpoint, path string, fields hostFields) (err error) {
	e.base = path
	if !fields.OverridePath && !strings.HasSuffix(path, "/v2") {
		e.base += "/v2"
	}
	e.resolve = able(fields, "resolve")
	e.tls.skipVerify = fields.SkipVerify
	for _, c := range fields.Capabilities {
		if !slices.Contains([]string{"pull", "resolve", "push", "referrers"}, strings.ToLower(c)) {
			return settingError(f.path, "capabilities", c, "is not known", "use pull, resolve, push and referrers")
		}
	}
	if e.tls.cas, err = f.files("ca", fields.CA); err != nil {
		return err
	}
	if e.tls.pairs, err = f.pairs(fields.Client); err != nil {
		return err
	}
	e.header, err = f.header(fields.Header)
	return err
}

// able reports whether a server has a capability; without any, it has all.
func able(fields hostFields, capability string) bool {
	return len(fields.Capabilities) == 0 ||
		slices.ContainsFunc(fields.Capabilities, func(c string) bool { return strings.EqualFold(c, capability) })
}

// files reads a path, or a list of them. Relative ones are beside the file.
func (f *hostsFile) files(field string, value any) ([]string, error) {
	switch v := value.(type) {
	case nil:
		return nil, nil
	case string:
		if !filepath.IsAbs(v) {
			v = filepath.Join(filepath.Dir(f.path), v)
		}
		return []string{v}, nil
	case []any:
		var all []string
		for _, one := range v {
			path, ok := one.(string)
			if !ok {
				break
			}
			paths, err := f.files(field, path)
			if err != nil {
				return nil, err
			}
			all = append(all, paths...)
		}
		if len(all) == len(v) {
			return all, nil
		}
	}
	return nil, settingError(f.path, field, fmt.Sprint(value), "is neither a path nor a list of paths",
		`write "ca.crt" or ["a.crt", "b.crt"]`)
}

// pairs reads client certificates: a file with both, a list of them, or a list of pairs of certificate and key.
func (f *hostsFile) pairs(value any) ([][2]string, error) {
	list, ok := value.([]any)
	if !ok {
		list = []any{value}
	}
	var all [][2]string
	for _, one := range list {
		paths, err := f.files("client", one)
		switch {
		case err != nil || len(paths) > 2:
			return nil, settingError(f.path, "client", fmt.Sprint(value), "is not a list of certificates",
				`write [["client.cert", "client.key"]]`)
		case len(paths) == 2:
			all = append(all, [2]string{paths[0], paths[1]})
		case len(paths) == 1:
			all = append(all, [2]string{paths[0], paths[0]})
		}
	}
	return all, nil
}

// header reads headers, each with one value or a list.
func (f *hostsFile) header(values map[string]any) (http.Header, error) {
	h := http.Header{}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		list, ok := values[key].([]any)
		if !ok {
			list = []any{values[key]}
		}
		for _, one := range list {
			text, ok := one.(string)
			if !ok || !httpguts.ValidHeaderFieldName(key) || !httpguts.ValidHeaderFieldValue(text) {
				return nil, settingError(f.path, "header."+said(key), fmt.Sprint(one), "cannot be a header",
					`write x-name = "text"`)
			}
			h.Add(key, text)
		}
	}
	return h, nil
}

// certificates completes what is known of a host's TLS by Docker's layout: *.crt are CAs, *.cert and *.key a client's.
func (s settings) certificates(address string, t tlsSettings) (tlsSettings, error) {
	t.where = filepath.Join(s.certificateDir(), address)
	for _, folder := range hostFolders(canonicalHost(address)) {
		for _, dir := range s.hostDirs {
			path := filepath.Join(dir, folder)
			entries, err := os.ReadDir(path)
			if isMissing(err) {
				continue
			}
			if err != nil {
				return t, fmt.Errorf("read the certificates of registry %s: %w", address, err)
			}
			found, err := dockerCertificates(path, entries)
			if err != nil {
				return t, err
			}
			if len(t.cas) == 0 {
				t.cas = found.cas
			}
			if len(t.pairs) == 0 {
				t.pairs = found.pairs
			}
		}
	}
	return t, nil
}

// certificateDir is where people are told to put a host's certificates.
func (s settings) certificateDir() string {
	if len(s.hostDirs) == 0 {
		return defaultHostDirs[0]
	}
	return s.hostDirs[len(s.hostDirs)-1]
}

func dockerCertificates(dir string, entries []os.DirEntry) (t tlsSettings, err error) {
	has := map[string]bool{}
	for _, e := range entries {
		has[e.Name()] = true
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		base, isCert := strings.CutSuffix(path, ".cert")
		name := filepath.Base(base)
		switch {
		case strings.HasSuffix(path, ".crt"):
			t.cas = append(t.cas, path)
		case isCert && !has[name+".key"]:
			return t, settingError(path, "", "", "has no key",
				fmt.Sprintf("put its key into %s.key, or remove it", base))
		case isCert:
			t.pairs = append(t.pairs, [2]string{path, base + ".key"})
		case strings.HasSuffix(path, ".key") && !has[strings.TrimSuffix(e.Name(), ".key")+".cert"]:
			return t, settingError(path, "", "", "has no certificate",
				fmt.Sprintf("put its certificate into %s.cert, or remove it", strings.TrimSuffix(path, ".key")))
		}
	}
	return t, nil
}
