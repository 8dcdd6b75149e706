package image

import (
	"fmt"

	"github.com/vethloom/vethloom/engine/image/unpack"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// What an archive may ask for. Whoever wrote it is not trusted, and what it names is kept in records, is sent in one
// message, or makes mounts and directories for each container.
const (
	maxImages     = 1000     // in one archive or index
	maxReferences = 1000     // of one image, and in one archive
	maxLayers     = 499      // overlayfs takes 500, and one is snapshot's own
	maxConfig     = 1 << 20  // bytes
	maxConfigs    = 64 << 20 // bytes, of one archive

	maxEnv, maxLabels = 4096, 4096
	maxArguments      = 4096    // of Entrypoint and Cmd, each
	maxListBytes      = 1 << 17 // of each of these, in bytes
	maxVolumes        = 128     // each is a mount and a directory of every container
	maxPorts          = 3 << 16 // all there are, of three protocols
	maxText           = 4096    // of a name of a port or volume, a user, a directory or a signal, in bytes
)

func tooMany(what string, have, limit int) error {
	return &unpack.FormatError{Reason: fmt.Sprintf("has %d %s, and the limit is %d", have, what, limit)}
}

// bound is one thing that is limited.
type bound struct {
	what        string
	have, limit int
}

func checkBounds(bounds ...bound) error {
	for _, b := range bounds {
		if b.have > b.limit {
			return tooMany(b.what, b.have, b.limit)
		}
	}
	return nil
}

// checkAmounts refuses a configuration with more of something than can be of use.
func checkAmounts(c *v1.ConfigFile, raw []byte) error {
	if err := checkBounds(bound{"bytes of configuration", len(raw), maxConfig},
		bound{"layers", len(c.RootFS.DiffIDs), maxLayers}); err != nil {
		return err
	}
	labels := make([]string, 0, 2*len(c.Config.Labels))
	for k, v := range c.Config.Labels {
		labels = append(labels, k, v)
	}
	var names []string
	for v := range c.Config.Volumes {
		names = append(names, v)
	}
	for p := range c.Config.ExposedPorts {
		names = append(names, p)
	}
	names = append(names, c.Config.User, c.Config.WorkingDir, c.Config.StopSignal)
	return checkBounds(
		bound{"environment variables", len(c.Config.Env), maxEnv},
		bound{"bytes of environment variables", length(c.Config.Env), maxListBytes},
		bound{"labels", len(c.Config.Labels), maxLabels},
		bound{"bytes of labels", length(labels), maxListBytes},
		bound{"words in its entrypoint", len(c.Config.Entrypoint), maxArguments},
		bound{"bytes in its entrypoint", length(c.Config.Entrypoint), maxListBytes},
		bound{"words in its command", len(c.Config.Cmd), maxArguments},
		bound{"bytes in its command", length(c.Config.Cmd), maxListBytes},
		bound{"volumes", len(c.Config.Volumes), maxVolumes},
		bound{"exposed ports", len(c.Config.ExposedPorts), maxPorts},
		bound{"bytes in the name of a port, a volume, a user, a directory or a signal", longest(names), maxText},
	)
}

func length(texts []string) (sum int) {
	for _, t := range texts {
		sum += len(t)
	}
	return sum
}

func longest(texts []string) (n int) {
	for _, t := range texts {
		n = max(n, len(t))
	}
	return n
}
