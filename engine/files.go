package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

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
func (e *preparer) files(c *container, rec record, sandbox, netns string, eps []cnm.Endpoint) ([]shim.Bind, error) {
	dir := c.dir
	if sandbox != c.id {
		owner := filepath.Join(e.containersDir(), sandbox)
		if _, err := os.Stat(filepath.Join(owner, resolvFile)); err == nil {
			return etcBinds(owner), nil
		}
	}
	name := e.hostname(rec, netns)
	resolv, _, err := e.resolvConf(rec.Spec.DNS, netns == hostNetNS)
	if err != nil {
		return nil, err
	}
	hosts, err := hostsText(rec.Spec, name, netns, eps)
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
	text, err := hostsText(rec.Spec, e.hostname(rec, rec.NetNS), rec.NetNS, eps)
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

func hostsText(s Spec, hostname, netns string, eps []cnm.Endpoint) ([]byte, error) {
	var b strings.Builder
	if netns == hostNetNS {
		host, err := os.ReadFile("/etc/hosts")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
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
		fmt.Fprintf(&b, "%s\t%s\n", addr, name)
	}
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

// parseExtraHost reads name:address; an IPv6 address may be in brackets.
func parseExtraHost(entry string) (name string, addr netip.Addr, err error) {
	name, text, ok := strings.Cut(entry, ":")
	if ok && name != "" && !strings.ContainsAny(name, " \t\n") {
		if addr, err = netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
			return name, addr, nil
		}
	}
	return "", netip.Addr{}, invalid("add-host", entry, "not a name and an address", "write NAME:ADDRESS")
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

// resolvConf is the host's, without resolvers that cannot be reached from
// another network namespace, and with the given ones instead of the host's. It tells how many
// name servers there are.
func (e *records) resolvConf(dns []netip.Addr, host bool) (out []byte, servers int, err error) {
	for i, path := range e.c.Resolv {
		text, err := readOptional(path)
		if err != nil {
			return nil, 0, fmt.Errorf("learn the host's name servers: %w", err)
		}
		if host && len(dns) == 0 {
			return text, 0, nil
		}
		if some, n := filterResolv(text, dns); n > 0 || i == 0 {
			out, servers = some, n
		}
		if servers > 0 {
			break
		}
	}
	return out, servers, nil
}

func readOptional(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

func filterResolv(text []byte, dns []netip.Addr) (out []byte, servers int) {
	for _, a := range dns {
		out = fmt.Appendf(out, "nameserver %s\n", a)
	}
	servers = len(dns)
	for line := range bytes.Lines(text) {
		fields := strings.Fields(string(line))
		switch {
		case len(fields) == 0 || fields[0][0] == '#' || fields[0][0] == ';':
			continue
		case fields[0] == "nameserver":
			if len(dns) > 0 || len(fields) < 2 {
				continue
			}
			a, err := netip.ParseAddr(fields[1])
			if err != nil || a.Unmap().IsLoopback() || a.Zone() != "" {
				continue
			}
			servers++
		}
		out = append(out, strings.Join(fields, " ")...)
		out = append(out, '\n')
	}
	return out, servers
}
