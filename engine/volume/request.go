package volume

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/cnm"
)

// LocalDriver is the one driver of volumes.
const LocalDriver = "local"

// Request says what a volume is to be.
type Request struct {
	Name    string
	Driver  string // "": LocalDriver
	Options map[string]string
	Labels  map[string]string
}

// needs are the options of the local driver, and what each does not make sense without.
func needs() map[string][]string {
	return map[string][]string{"type": {"device"}, "device": {"type"}, "o": {"type", "device"}}
}

// Check refuses a request that cannot be met, whatever volumes there are.
func (r Request) Check() error {
	if err := CheckName(r.Name); err != nil {
		return err
	}
	if r.Driver != "" && r.Driver != LocalDriver {
		return &cnm.Error{Kind: cnm.ErrInvalid, Field: "driver", Value: r.Driver,
			Reason: "there is no such driver of volumes", Remedy: "use " + LocalDriver + ", or leave it out"}
	}
	known := needs()
	for _, name := range slices.Sorted(maps.Keys(r.Options)) {
		value := r.Options[name]
		wants, ok := known[name]
		if !ok {
			reason := "invalid option: the local driver does not know it"
			if name == "size" {
				reason = "quotas are not supported"
			}
			return invalidOption(name, value, reason, "use type, device and o, as mount(8) takes them")
		}
		if strings.ContainsRune(value, 0) || len(value) >= maxOption {
			return invalidOption(name, value, "not an argument of mount(2)", "give a shorter one")
		}
		for _, w := range wants {
			if r.Options[w] == "" {
				return invalidOption(name, value, fmt.Sprintf("missing required option: %q", w), "give it, too")
			}
		}
	}
	if r.binds() && !filepath.IsAbs(r.Options["device"]) {
		return invalidOption("device", r.Options["device"], "not an absolute path of the host", "begin it with /")
	}
	return nil
}

// maxOption is how long an argument of mount(2) may be, in bytes: a page.
const maxOption = 4096

// binds reports whether the volume is a directory of the host.
func (r Request) binds() bool {
	return slices.ContainsFunc(strings.Split(r.Options["o"], ","), func(o string) bool {
		return o == "bind" || o == "rbind"
	})
}

func invalidOption(name, value, reason, remedy string) error {
	return &cnm.Error{Kind: cnm.ErrInvalid, Field: "opt " + name, Value: value, Reason: reason, Remedy: remedy}
}

// conflict refuses a request for a volume that is there and is another one. What the request leaves open is as it is.
func (r Request) conflict(v Volume) error {
	if len(r.Options) == 0 || maps.Equal(r.Options, v.Options) {
		return nil
	}
	return &cnm.Error{Kind: cnm.ErrExists, Field: "volume name", Value: r.Name,
		Reason: "there is a volume of this name with other driver options",
		Remedy: "choose another name, or remove that one with 'net volume rm " + r.Name + "'"}
}
