package engine

import (
	"crypto/rand"
	"encoding/hex"
	"math/big"
	"strings"

	"github.com/vethloom/vethloom/cnm"
)

// Names of containers without one are a quality and a part of a loom or a
// weaver's tool.
var (
	qualities = []string{
		"amber", "ample", "balmy", "bold", "brave", "breezy", "brisk", "calm", "candid", "chief", "clever", "coral",
		"cosy", "crisp", "deft", "dense", "eager", "early", "fair", "fine", "fleet", "fond", "fresh", "gentle",
		"glad", "golden", "grand", "hardy", "hazel", "humble", "ivory", "jolly", "keen", "kind", "light", "lively",
		"loyal", "lucid", "mellow", "merry", "mild", "neat", "nimble", "noble", "olive", "patient", "plain", "plucky",
		"polite", "proud", "quick", "quiet", "rapid", "ready", "ruby", "sage", "sharp", "silent", "sleek", "smart",
		"smooth", "snug", "solid", "spry", "steady", "still", "stout", "sunny", "swift", "tidy", "trim", "true",
		"vivid", "warm", "witty", "young",
	}
	tools = []string{
		"arras", "batten", "beam", "bobbin", "braid", "brocade", "cambric", "canvas", "carder", "chenille", "cloth",
		"comb",
		"cord", "cotton", "damask", "denim", "distaff", "dobby", "draft", "fabric", "felt", "fibre", "flannel",
		"fleece",
		"frame", "gauze", "harness", "heddle", "hemp", "hook", "jacquard", "jersey", "knot", "lace", "lease", "linen",
		"loom", "mesh", "mordant", "muslin", "needle", "pattern", "pedal", "pirn", "plait", "plush", "quill", "ramie",
		"reed", "ribbon", "sateen", "satin", "selvage", "serge", "shaft", "shed", "shuttle", "silk", "skein", "sley",
		"spindle", "spool", "swatch", "taffeta", "temple", "thread", "thrum", "tinsel", "treadle", "tuft", "tweed",
		"twill",
		"twine", "velvet", "voile", "warp", "weft", "whorl", "wool", "yarn",
	}
)

func pick(words []string) (string, error) {
	n, err := rand.Int(rand.Reader, big.NewInt(int64(len(words))))
	if err != nil {
		return "", err
	}
	return words[n.Int64()], nil
}

// randomName makes up a name that is not taken; a number tells apart what
// luck does not. The caller holds the engine's mutex.
func (e *records) randomName() (string, error) {
	for try := 0; ; try++ {
		quality, err := pick(qualities)
		if err != nil {
			return "", err
		}
		tool, err := pick(tools)
		if err != nil {
			return "", err
		}
		name := quality + "_" + tool
		if try > 5 {
			digits, err := randomHex(2)
			if err != nil {
				return "", err
			}
			name += "_" + digits
		}
		if e.names[name] == "" {
			return name, nil
		}
	}
}

func randomHex(bytes int) (string, error) {
	b := make([]byte, bytes)
	if _, err := rand.Read(b); err != nil {
		return "", err
	}
	return hex.EncodeToString(b), nil
}

// newID makes an ID whose short form is not taken either: it names the sandbox. Nor is that a number: it is the
// hostname too, and resolvers take a number for an address (inet_aton(3)) and look it up nowhere.
// The caller holds the engine's mutex.
func (e *records) newID() (string, error) {
	for {
		id, err := randomHex(32)
		if err != nil {
			return "", err
		}
		taken := !strings.ContainsAny(cnm.Short(id), "abcdef")
		for other := range e.containers {
			taken = taken || cnm.Short(other) == cnm.Short(id)
		}
		if !taken {
			return id, nil
		}
	}
}
