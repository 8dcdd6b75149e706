package doctor

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// CNIConfig is a configuration that CNI runtimes may use.
type CNIConfig struct {
	File string
	Ours bool // a plugin of it is vethloom-cni
}

// Where runtimes look for configurations and plugins unless they are told otherwise.
const cniConfigs = "/etc/cni/net.d"

var cniFolders = []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"}

// cniProgram is what is looked for.
const cniProgram = "vethloom-cni"

// maxConfig is as much as is read of a configuration, in bytes.
const maxConfig = 1 << 20

// cni finds the configurations, in the order in which runtimes do, and whether our plugin is where they look.
func (h Host) cni(f *Facts) {
	entries, err := os.ReadDir(h.path(cniConfigs)) // sorted by name
	if err != nil {
		return
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name())) {
			continue
		}
		file, err := os.Open(h.path(filepath.Join(cniConfigs, e.Name())))
		if err != nil {
			continue
		}
		text, err := io.ReadAll(io.LimitReader(file, maxConfig))
		file.Close()
		if err == nil {
			f.CNI = append(f.CNI, CNIConfig{e.Name(), bytes.Contains(text, []byte(`"`+cniProgram+`"`))})
		}
	}
	f.CNIPlugin = slices.ContainsFunc(cniFolders,
		func(dir string) bool { return h.exists(filepath.Join(dir, cniProgram)) })
}

// cniRuntimes judges whether CNI runtimes put their containers on our networks.
func cniRuntimes(f Facts) []Finding {
	const check = "CNI"
	join := func(file string) string {
		return fmt.Sprintf("net network create web; "+
			`echo '{"cniVersion": "1.0.0", "name": "web", "plugins": [{"type": %q}]}' >%s`, cniProgram,
			filepath.Join(cniConfigs, file))
	}
	switch {
	case len(f.CNI) > 0:
	case f.Engines.Runtime == "" || f.Engines.Docker != nil: // Docker has a containerd, and its own networks
		return nil
	default:
		return finding(check, Info, fmt.Sprintf("%s is there, and no configuration in %s: its pods are on no network "+
			"of vethloom", f.Engines.Runtime, cniConfigs), join("10-web.conflist"))
	}
	first := f.CNI[0].File
	ours := slices.IndexFunc(f.CNI, func(c CNIConfig) bool { return c.Ours })
	switch {
	case ours < 0:
		return finding(check, Info, fmt.Sprintf("runtimes use %s: their containers are on no network of vethloom",
			filepath.Join(cniConfigs, first)), join("00-web.conflist"))
	case !f.CNIPlugin:
		return finding(check, Warning, fmt.Sprintf("%s is for %s, which is in none of %s", f.CNI[ours].File, cniProgram,
			strings.Join(cniFolders, ", ")), "ln -s $(command -v "+cniProgram+") "+cniFolders[0]+"/")
	case ours > 0:
		return finding(check, Warning, fmt.Sprintf("runtimes use the configuration that sorts first, %s, and not %s",
			first, f.CNI[ours].File), fmt.Sprintf("mv %s %s", filepath.Join(cniConfigs, f.CNI[ours].File),
			filepath.Join(cniConfigs, "00-"+f.CNI[ours].File)))
	}
	return fine(check, first+" is used")
}

// dockerJoined judges whether dockerd finds netd.
func dockerJoined(f Facts) []Finding {
	const check = "Docker"
	d := f.Engines.Docker
	if d == nil {
		return nil
	}
	remedy := "systemctl restart netd"
	switch d.Plugin {
	case dockerPlugin:
	case "":
		remedy = "restart netd, without --docker-plugin off: systemctl restart netd"
	default:
		remedy = fmt.Sprintf("ln -sf %s %s", d.Plugin, dockerPlugin)
	}
	switch {
	case d.Answers && d.Plugin == "":
		return finding(check, Warning, "another program is dockerd's driver vethloom, at "+dockerPlugin, remedy)
	case d.Answers && !d.Asked:
		return finding(check, Info, "dockerd finds netd, which does not follow it: its containers have no names here",
			"start netd with --docker unix://"+d.Socket)
	case d.Answers:
		return fine(check, "dockerd finds netd at "+dockerPlugin)
	case d.There:
		return finding(check, Warning, "no network driver answers at "+dockerPlugin+": dockerd waits for it in vain",
			remedy)
	case d.Spec != "":
		return finding(check, Warning, fmt.Sprintf("dockerd looks for driver vethloom where %s says: there is no %s",
			d.Spec, dockerPlugin), fmt.Sprintf("rm %s; %s", d.Spec, remedy))
	}
	return finding(check, Info, fmt.Sprintf("%s is there, and no %s: its containers are on no network of vethloom",
		d.Socket, dockerPlugin), remedy)
}

// podmanJoined judges whether Podman could use our plugin of netavark.
func podmanJoined(f Facts) []Finding {
	const check = "Podman"
	n := f.Engines.Netavark
	if n == nil {
		return nil
	}
	knows, known := knowsPlugins(n.Version)
	switch {
	case !known:
		return finding(check, Info, fmt.Sprintf("%s does not say its version: it says %q", n.Path, n.Version),
			n.Path+" --version; 1.6 is the first that runs plugins")
	case !knows:
		return finding(check, Info, fmt.Sprintf("netavark %s runs no plugins, as 1.6 does: Podman's containers are on "+
			"no network of vethloom", n.Version),
			"install netavark 1.6, or have Podman use CNI: docs/engines.md")
	case !n.Linked && len(n.Folders) > 0:
		folder := n.Folders[0]
		if slices.Contains(n.Folders, localNetavark) {
			folder = localNetavark
		}
		return finding(check, Info, fmt.Sprintf("no %s is in %s: Podman's containers are on no network of vethloom",
			netavarkPlugin, strings.Join(n.Folders, ", ")), fmt.Sprintf("mkdir -p %s && ln -s $(command -v %s) %s",
			folder, cniProgram, filepath.Join(folder, netavarkPlugin)))
	case !n.Linked:
		return finding(check, Info, "netavark_plugin_dirs of containers.conf is empty: Podman knows no plugins",
			fmt.Sprintf("netavark_plugin_dirs = [%q] in /etc/containers/containers.conf", localNetavark))
	}
	return fine(check, "netavark "+n.Version+" finds the driver "+netavarkPlugin)
}
