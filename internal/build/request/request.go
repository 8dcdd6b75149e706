// Package request is what 'net build' may be asked for: its flags, whether they can be right, and how they are handed
// to net-build. It is linked into net, so it knows nothing of BuildKit.
package request

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// Program is what does the work. It is looked for beside net, and then in PATH.
const Program = "net-build"

// Own names, as a builder, the buildkitd that is started for one build.
const Own = "own"

// DefaultRoot is where an own buildkitd keeps its cache between builds.
const DefaultRoot = "/var/lib/vethloom-build"

// Request is one build.
type Request struct {
	Context string // a directory, - for a tar or a Dockerfile on standard input, or a URL

	File      string   // of the Dockerfile; "": Dockerfile in the context; -: standard input
	Tags      []string // names of the image
	BuildArgs []string // NAME=VALUE, or NAME, whose value is the environment's
	Target    string   // stage
	Platform  string   // OS/ARCHITECTURE
	Labels    []string // NAME=VALUE
	AddHosts  []string // NAME:ADDRESS
	Network   string   // of the steps: default, none, host, or one of vethloom's
	Contexts  []string // NAME=VALUE

	NoCache   bool
	Pull      bool
	CacheFrom []string // a reference, or type=…
	CacheTo   []string

	Secrets []string // id=NAME[,src=FILE|,env=VARIABLE]
	SSH     []string // default, or NAME=SOCKET|KEY

	Outputs  []string // a directory, - for a tar on standard output, or type=…; none: into netd
	Progress string   // auto, plain, tty, quiet or rawjson
	Quiet    bool     // print the image's ID alone
	IIDFile  string   // gets the image's ID

	Builder    string // address of a buildkitd; Own; "": the first there is
	CACert     string // of a buildkitd that is reached by TCP
	Cert, Key  string
	ServerName string
	Config     string // buildkitd.toml of an own buildkitd
	Root       string // of an own buildkitd
}

// Flags adds the flags to a set. They have their values when it was parsed.
func (r *Request) Flags(f *pflag.FlagSet) {
	f.StringVarP(&r.File, "file", "f", "", "Dockerfile; - for standard input (default: Dockerfile in the context)")
	f.StringArrayVarP(&r.Tags, "tag", "t", nil, "name of the image: NAME[:TAG]")
	f.StringArrayVar(&r.BuildArgs, "build-arg", nil, "value of an ARG: NAME=VALUE, or NAME for that of the environment")
	f.StringVar(&r.Target, "target", "", "stage to build (default: the last)")
	f.StringVar(&r.Platform, "platform", "", "platform of the image, such as linux/arm64 (default: the builder's)")
	f.StringArrayVar(&r.Labels, "label", nil, "label of the image: NAME=VALUE")
	f.StringArrayVar(&r.AddHosts, "add-host", nil, "line of /etc/hosts while building: NAME:ADDRESS")
	f.StringVar(&r.Network, "network", "default",
		"network of RUN steps: default, none, host, or a network of vethloom (by a buildkitd of its own)")
	f.StringArrayVar(&r.Contexts, "build-context", nil,
		"further context: NAME=DIRECTORY, =docker-image://IMAGE, =oci-layout://DIRECTORY[:TAG|@DIGEST], or a URL")
	f.BoolVar(&r.NoCache, "no-cache", false, "run every step")
	f.BoolVar(&r.Pull, "pull", false, "ask registries for base images, also for those that netd has")
	f.StringArrayVar(&r.CacheFrom, "cache-from", nil, "cache to use: a reference, or type=local,src=DIRECTORY")
	f.StringArrayVar(&r.CacheTo, "cache-to", nil,
		"where to put the cache: type=inline, type=local,dest=DIRECTORY or type=registry,ref=NAME")
	f.StringArrayVar(&r.Secrets, "secret", nil, "file for RUN --mount=type=secret: id=NAME[,src=FILE|,env=VARIABLE]")
	f.StringArrayVar(&r.SSH, "ssh", nil, "SSH agent for RUN --mount=type=ssh: default, or NAME=SOCKET|KEY[,KEY]")
	f.StringArrayVarP(&r.Outputs, "output", "o", nil, "where the result goes: DIRECTORY, - for a tar, or "+
		"type=local|tar|oci|docker|registry[,dest=…][,name=…] (default: into netd's images)")
	f.StringVar(&r.Progress, "progress", "auto", "how to show progress: auto, plain, tty, quiet or rawjson")
	f.BoolVarP(&r.Quiet, "quiet", "q", false, "print the image's ID alone, and the steps if one fails")
	f.StringVar(&r.IIDFile, "iidfile", "", "file that gets the image's ID")
	f.StringVar(&r.Builder, "builder", "", "buildkitd: unix:///PATH, tcp://HOST:PORT, or own for one that is started "+
		"for this build (default $BUILDKIT_HOST, else a running one, else own)")
	f.StringVar(&r.CACert, "builder-cacert", "", "certificate of the authority of a tcp:// builder")
	f.StringVar(&r.Cert, "builder-cert", "", "certificate to show a tcp:// builder")
	f.StringVar(&r.Key, "builder-key", "", "key of --builder-cert")
	f.StringVar(&r.ServerName, "builder-name", "", "name in the certificate of a tcp:// builder (default: the host)")
	f.StringVar(&r.Config, "builder-config", "",
		"buildkitd.toml of an own builder (default /etc/buildkit/buildkitd.toml, if it is there)")
	f.StringVar(&r.Root, "builder-root", DefaultRoot, "directory of an own builder, with its cache")
}

// Check refuses what cannot be right about a request.
func (r *Request) Check() error {
	switch {
	case r.Context == "":
		return fmt.Errorf("the context is missing: name a directory, often . for this one")
	case r.Context == "-" && r.File == "-":
		return fmt.Errorf("context - and --file -: standard input is one of them; write the other into a file")
	case r.Network == "":
		return fmt.Errorf("--network \"\": want default, none, host, or the name of a network")
	case strings.Contains(r.Platform, ","):
		return fmt.Errorf("--platform %q: an image here is for one platform; build each by itself", r.Platform)
	case !slices.Contains([]string{"auto", "plain", "tty", "quiet", "rawjson"}, r.Progress):
		return fmt.Errorf("--progress %q: want auto, plain, tty, quiet or rawjson", r.Progress)
	case r.Root != "" && !filepath.IsAbs(r.Root):
		return fmt.Errorf("--builder-root %q: want an absolute path", r.Root)
	}
	for _, list := range []struct {
		flag, sep, want string
		values          []string
	}{
		{"label", "=", "NAME=VALUE", r.Labels},
		{"add-host", ":=", "NAME:ADDRESS", r.AddHosts},
		{"build-context", "=", "NAME=VALUE", r.Contexts},
	} {
		for _, v := range list.values {
			if strings.IndexAny(v, list.sep) < 1 {
				return fmt.Errorf("--%s %q: want %s", list.flag, v, list.want)
			}
		}
	}
	for _, v := range r.BuildArgs {
		if v == "" || v[0] == '=' {
			return fmt.Errorf("--build-arg %q: want NAME=VALUE or NAME", v)
		}
	}
	return nil
}

// Args are the flags that were given, as arguments of another program.
func Args(f *pflag.FlagSet) []string {
	var out []string
	f.Visit(func(flag *pflag.Flag) {
		if list, ok := flag.Value.(pflag.SliceValue); ok {
			for _, v := range list.GetSlice() {
				out = append(out, "--"+flag.Name+"="+v)
			}
			return
		}
		out = append(out, "--"+flag.Name+"="+flag.Value.String())
	})
	return out
}
