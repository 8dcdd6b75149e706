// Command vethloom-cni puts containers of CNI engines on networks of netd. Called as netavark calls its plugins, it
// does so for Podman's.
package main

import (
	"os"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/vethloom/vethloom/plugin/cni"
	"github.com/vethloom/vethloom/plugin/netavark"
)

func main() {
	if args := os.Args[1:]; os.Getenv("CNI_COMMAND") == "" && netavark.Is(args) {
		os.Exit(netavark.Main(version, args, os.Stdin, os.Stdout))
	}
	skel.PluginMainFuncs(cni.Commands(), cni.Versions(),
		"vethloom-cni "+version+": puts containers of CNI engines on vethloom networks; see docs/engines.md")
}

// version is set by the linker.
var version = "dev"
