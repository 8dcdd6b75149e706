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
	if len(f.CNI) == 0 {
		return nil
	}
	first := f.CNI[0].File
	ours := slices.IndexFunc(f.CNI, func(c CNIConfig) bool { return c.Ours })
	switch {
	case ours < 0:
		return finding(check, Info, fmt.Sprintf("runtimes use %s: their containers are on no network of vethloom",
			filepath.Join(cniConfigs, first)), "to have them join: docs/engines.md")
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
