package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/rootfile"
	"github.com/vethloom/vethloom/engine/shim"
)

// The files every container gets from us, below /etc there and in its durable
// directory here.
const (
	hostsFile    = "hosts"
	hostnameFile = "hostname"
	resolvFile   = "resolv.conf"
	// generatedFile holds the digests of what we wrote into them last. A file that
	// has another now was edited by the user and is left alone.
	generatedFile = "generated.json"
)

// etcLimit bounds what is read of them, in bytes: containers write to them.
const etcLimit = 1 << 20

var etcFiles = []string{hostsFile, hostnameFile, resolvFile}

// files writes a container's generated files and returns how to show them to
// it. Containers that share a network stack share the files of its owner.
func (e *preparer) files(ctx context.Context, c *container, rec record, sandbox, netns string,
	eps []cnm.Endpoint) ([]shim.Bind, error) {
	dir := c.dir
	if sandbox != c.id {
		owner := filepath.Join(e.containersDir(), sandbox)
		if _, err := os.Stat(filepath.Join(owner, resolvFile)); err == nil {
			return etcBinds(owner), nil
		}
	}
	name := e.hostname(rec, netns)
	resolv, _, err := e.resolvConf(rec.Spec, netns == hostNetNS)
	if err != nil {
		return nil, err
	}
	hosts, err := e.hostsText(ctx, rec.Spec, name, netns, eps)
	if err != nil {
		return nil, err
	}
	texts := map[string][]byte{hostsFile: hosts, hostnameFile: []byte(name + "\n"), resolvFile: resolv}
	if err := regenerate(dir, texts); err != nil {
		return nil, fmt.Errorf("write the files of container %s: %w", cnm.Short(c.id), err)
	}
	return etcBinds(dir), nil
}

func etcBinds(dir string) []shim.Bind {
	var out []shim.Bind
	for _, name := range etcFiles {
		out = append(out, shim.Bind{Source: filepath.Join(dir, name), Target: "/etc/" + name, Inert: true})
	}
	return out
}

// NetworksChanged writes the addresses a sandbox has now into the hosts file of
// its containers. A file that was edited stays as it is; one that nobody has is
// no error.
func (e *preparer) NetworksChanged(ctx context.Context, sandbox string, eps []cnm.Endpoint) error {
	e.mu.Lock()
	c := e.containers[sandbox]
	e.mu.Unlock()
	if c == nil {
		return nil // of another engine, or its owner is gone and others live on in it
	}
	unlock, err := e.lock(ctx, c)
	if err != nil {
		return err
	}
	defer unlock()
	rec := e.snapshot(c)
	if _, err := os.Stat(filepath.Join(c.dir, hostsFile)); errors.Is(err, fs.ErrNotExist) {
		return nil // never started: written then
	}
	text, err := e.hostsText(ctx, rec.Spec, e.hostname(rec, rec.NetNS), rec.NetNS, eps)
	if err == nil {
		err = regenerate(c.dir, map[string][]byte{hostsFile: text})
	}
	if err != nil {
		return fmt.Errorf("update the hosts file of container %s: %w", cnm.Short(c.id), err)
	}
	return nil
}

// regenerate writes texts over files that are still as we wrote them last. The
// files keep their inodes: containers have them mounted.
func regenerate(dir string, texts map[string][]byte) error {
	digests := map[string]string{}
	book := filepath.Join(dir, generatedFile)
	if b, err := os.ReadFile(book); err == nil {
		if err := json.Unmarshal(b, &digests); err != nil {
			digests = map[string]string{} // cut short by a crash: take the files for edited
		}
	}
	changed := false
	for name, text := range texts {
		path := filepath.Join(dir, name)
		now, err := rootfile.Read(dir, name, etcLimit)
		if errors.Is(err, rootfile.ErrTooLarge) || errors.Is(err, rootfile.ErrNotRegular) {
			continue // we wrote no such thing: the container did
		}
		missing := errors.Is(err, fs.ErrNotExist)
		if err != nil && !missing {
			return err
		}
		if !missing && (bytes.Equal(now, text) || digest(now) != digests[name]) {
			continue
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
		digests[name], changed = digest(text), true
	}
	if !changed {
		return nil
	}
	b, err := json.Marshal(digests)
	if err != nil {
		return err
	}
	return os.WriteFile(book, b, 0o600)
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

const localHosts = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::	ip6-localnet
ff00::	ip6-mcastprefix
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
`

func (e *preparer) hostsText(ctx context.Context, s Spec, hostname, netns string, eps []cnm.Endpoint) ([]byte,
	error) {
	var b strings.Builder
	if netns == hostNetNS {
		host, err := readOptional("/etc/hosts")
		if err != nil {
			return nil, err
		}
		b.Write(host)
	} else {
		b.WriteString(localHosts)
	}
	for _, entry := range s.ExtraHosts {
		name, addr, err := parseExtraHost(entry)
		if err != nil {
			return nil, err
		}
		addrs := []netip.Addr{addr}
		if !addr.IsValid() {
			addrs = e.hostGateway(ctx, netns, eps)
		}
		for _, a := range addrs {
			fmt.Fprintf(&b, "%s\t%s\n", a, name)
		}
	}
	b.WriteString(e.linkedHosts(ctx, s.Links, eps))
	names := hostname
	if short, _, whole := strings.Cut(hostname, "."); whole {
		names += " " + short // hosts(5): the canonical name first
	}
	for _, ep := range eps {
		for _, a := range ep.Addrs {
			fmt.Fprintf(&b, "%s\t%s\n", a.Addr(), names)
		}
	}
	return []byte(b.String()), nil
}

// linkedHosts are the lines by which a container finds those that it is linked to by its own names for them. One
// that does not run, or is on none of its networks, has no address for it.
func (e *preparer) linkedHosts(ctx context.Context, links []string, eps []cnm.Endpoint) string {
	var b strings.Builder
	for _, link := range links {
		ref, alias := parseLink(link)
		c, err := e.find(ref)
		if err != nil {
			continue
		}
		_, theirs, err := e.c.Networks.Sandbox(ctx, c.id)
		if err != nil {
			continue
		}
		for _, t := range theirs {
			if !slices.ContainsFunc(eps, func(own cnm.Endpoint) bool { return own.Network == t.Network }) {
				continue
			}
			for _, a := range t.Addrs {
				fmt.Fprintf(&b, "%s\t%s\n", a.Addr(), alias)
			}
		}
	}
	return b.String()
}

// parseLink reads NAME:ALIAS or NAME, as Docker has it.
func parseLink(link string) (ref, alias string) {
	ref, alias, ok := strings.Cut(link, ":")
	if !ok {
		alias = ref
	}
	return ref, alias[strings.LastIndexByte(alias, '/')+1:] // as inspect shows links: /NAME:/OWN/ALIAS
}

// checkLinks refuses links to containers that there are not, and aliases that are no names.
func (e *records) checkLinks(links []string) error {
	for _, link := range links {
		ref, alias := parseLink(link)
		if err := cnm.CheckName("link", alias); err != nil {
			return err
		}
		if _, err := e.find(ref); err != nil {
			return err
		}
	}
	return nil
}

// hostGatewayWord stands for the host's address in an extra host, as Docker has it.
const hostGatewayWord = "host-gateway"

// hostGateway is what a container reaches the host by: the gateways of the first of its networks that has some.
func (e *preparer) hostGateway(ctx context.Context, netns string, eps []cnm.Endpoint) (out []netip.Addr) {
	if netns == hostNetNS {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	for _, ep := range eps {
		n, err := e.c.Networks.Network(ctx, ep.Network)
		if err != nil {
			continue
		}
		for _, p := range n.Pools {
			if p.Gateway.IsValid() {
				out = append(out, p.Gateway)
			}
		}
		if len(out) > 0 {
			break
		}
	}
	return out
}

// parseExtraHost reads name:address; an IPv6 address may be in brackets. The zero value is the host's.
func parseExtraHost(entry string) (name string, addr netip.Addr, err error) {
	name, text, ok := strings.Cut(entry, ":")
	if ok && name != "" && !strings.ContainsAny(name, " \t\n") {
		if text == hostGatewayWord {
			return name, netip.Addr{}, nil
		}
		if addr, err = netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
			return name, addr, nil
		}
	}
	return "", netip.Addr{}, invalid("add-host", entry, "not a name and an address",
		"write NAME:ADDRESS, or NAME:host-gateway for the host")
}

func checkExtraHosts(entries []string) error {
	for _, entry := range entries {
		if _, _, err := parseExtraHost(entry); err != nil {
			return err
		}
	}
	return nil
}

// Where a host says which resolvers it uses. systemd-resolved puts its own
// address, on loopback, into the first, and the real ones into the second.
const (
	hostResolv    = "/etc/resolv.conf"
	hostResolvedD = "/run/systemd/resolve/resolv.conf"
)

// resolvConf is what a container asks for names by: the resolver of its sandbox, with the host's search domains and
// options where it has none of its own; on the host's network what the host has. It tells how many servers there are
// that the resolver can ask.
func (e *records) resolvConf(s Spec, host bool) (out []byte, servers int, err error) {
	var text []byte
	var given resolv
	for _, path := range e.c.Resolv {
		if text, err = readOptional(path); err != nil {
			return nil, 0, fmt.Errorf("learn the host's name servers: %w", err)
		}
		if given = parseResolv(text); len(given.servers) > 0 {
			break
		}
	}
	if len(s.DNS) > 0 {
		given.servers = nil
		for _, a := range s.DNS {
			given.servers = append(given.servers, a.String())
		}
	}
	if len(s.DNSSearch) > 0 {
		given.search = slices.DeleteFunc(slices.Clone(s.DNSSearch), func(d string) bool { return d == "." })
	}
	isNdots := func(o string) bool { return strings.HasPrefix(o, "ndots:") }
	own := slices.ContainsFunc(s.DNSOptions, isNdots)
	if !host || own {
		given.options = slices.DeleteFunc(given.options, isNdots)
	}
	given.options = append(given.options, s.DNSOptions...)
	servers = len(given.servers)
	if host && len(s.DNS)+len(s.DNSSearch)+len(s.DNSOptions) == 0 {
		return text, servers, nil
	}
	if !host {
		given.servers = []string{cnm.ResolverAddr().String()}
		// A name without a dot is asked for as it is first: with a search domain it would go to strangers.
		if !own {
			given.options = append(given.options, "ndots:0")
		}
	}
	return given.text(), servers, nil
}

// readOptional reads a file of the host's that may be missing. What is no file, or leads to none, or has no end, is as
// one that is empty: nothing waits for it, and no container is without it.
func readOptional(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	for _, none := range []error{fs.ErrNotExist, unix.ELOOP, unix.ENOTDIR, unix.ENXIO, unix.ENODEV} {
		if errors.Is(err, none) {
			return nil, nil
		}
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, etcLimit))
}

// resolv is what resolv.conf(5) says.
type resolv struct{ servers, search, options []string }

func parseResolv(text []byte) resolv {
	var r resolv
	for line := range bytes.Lines(text) {
		fields := strings.Fields(string(line))
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if _, err := netip.ParseAddr(fields[1]); err == nil {
				r.servers = append(r.servers, fields[1])
			}
		case "search", "domain": // the last one counts
			r.search = fields[1:]
		case "options":
			r.options = append(r.options, fields[1:]...)
		}
	}
	return r
}

func (r resolv) text() []byte {
	var b []byte
	for _, s := range r.servers {
		b = fmt.Appendf(b, "nameserver %s\n", s)
	}
	for _, x := range []struct {
		word   string
		values []string
	}{{"search", r.search}, {"options", r.options}} {
		if len(x.values) > 0 {
			b = fmt.Appendf(b, "%s %s\n", x.word, strings.Join(x.values, " "))
		}
	}
	return b
}

// checkDNS refuses what would not be one word of resolv.conf.
func checkDNS(s Spec) error {
	for _, d := range s.DNSSearch {
		if d != "." && !cnm.IsDNSName(strings.TrimSuffix(d, ".")) {
			return invalid("dns-search", d, "not a domain", "give a domain such as corp.example, or . for none")
		}
	}
	for _, o := range s.DNSOptions {
		if o == "" || strings.ContainsFunc(o, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return invalid("dns-option", o, "not one word", "give an option of resolv.conf(5) such as ndots:1")
		}
	}
	return nil
}
