// Command vethloom-cni puts containers of CNI engines on networks of netd.
package main

import (
	"github.com/containernetworking/cni/pkg/skel"

	"github.com/vethloom/vethloom/plugin/cni"
)

func main() {
	skel.PluginMainFuncs(cni.Commands(), cni.Versions(),
		"vethloom-cni "+version+": puts containers of CNI engines on vethloom networks; see docs/engines.md")
}

// version is set by the linker.
var version = "dev"
