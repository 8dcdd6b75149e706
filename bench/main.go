package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// config is the command line.
type config struct {
	rounds       int           // of attaches and of containers
	tcpRounds    int           // of iperf3 runs
	tcpTime      time.Duration // of one iperf3 run
	streamRounds int           // of moving bytes through standard streams
	streamSize   int           // MB of them
	acrossRounds int           // of measuring between two hosts
	acrossTime   time.Duration // of one iperf3 run there
	imageRounds  int           // of pulls, loads and removals of images
	imageSize    int           // MB of an image of ten layers
	imageFiles   int           // in an image of small files
	engine       string        // directory of a further dockerd and its runc
	short        bool          // as few and as short rounds as possible
	contenders   string        // between two hosts and of images: parts of names, separated by commas; empty: all
	only         string        // groups, separated by commas; empty: all
	format       string        // table or json
	bin          string        // directory of netd, net and net-shim
	baselines    bool          // leave vethloom out
	timeout      time.Duration // of everything
}

var sectionNames = []string{"attach", "run", "containers", "streams", "tcp", "names", "ports", "engines",
	"across", "images"}

func parse(args []string, out io.Writer) (config, error) {
	c := config{imageSize: 200, imageFiles: 100_000}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(out)
	f.IntVar(&c.rounds, "rounds", 30, "rounds of attaching and of running a container")
	f.IntVar(&c.streamRounds, "stream-rounds", 5, "rounds of moving bytes through standard streams")
	f.IntVar(&c.streamSize, "stream-size", 500, "MB of these")
	f.IntVar(&c.tcpRounds, "tcp-rounds", 5, "rounds of iperf3")
	f.DurationVar(&c.tcpTime, "tcp-time", 3*time.Second, "length of one iperf3 run, whole seconds")
	f.IntVar(&c.acrossRounds, "across-rounds", 5, "rounds of measuring between two hosts, on either underlay")
	f.DurationVar(&c.acrossTime, "across-time", time.Second,
		"length of one iperf3 run between two hosts, whole seconds")
	f.IntVar(&c.imageRounds, "image-rounds", 3, "rounds of bringing images in and removing them")
	f.StringVar(&c.engine, "engine", "",
		"directory of a further dockerd, with its runc (default: .cache/engine beside the binaries')")
	f.BoolVar(&c.short, "short", false, "few and short rounds, to see that everything works: the figures mean little")
	f.StringVar(&c.contenders, "contenders", "",
		"between two hosts and of images, only those with one of these in their names, such as udp,vxlan")
	f.StringVar(&c.only, "only", "", "some of "+strings.Join(sectionNames, ","))
	f.StringVar(&c.format, "format", "table", "table or json")
	f.StringVar(&c.bin, "bin", "", "directory of netd, net and net-shim (default: that of bench)")
	f.BoolVar(&c.baselines, "baselines", false, "leave vethloom out: only what it is compared with")
	f.DurationVar(&c.timeout, "timeout", 40*time.Minute, "end here, whatever is left to do")
	if err := f.Parse(args); err != nil {
		return c, err
	}
	if f.NArg() > 0 {
		return c, fmt.Errorf("bench takes no arguments, got %q", f.Args())
	}
	if c.short {
		c.rounds, c.tcpRounds, c.tcpTime, c.acrossRounds, c.acrossTime = 3, 1, time.Second, 1, time.Second
		c.streamRounds, c.streamSize = 1, 50
		c.imageRounds, c.imageSize, c.imageFiles = 1, 20, 5000
	}
	return c, c.check()
}

// check refuses what cannot be measured.
func (c config) check() error {
	if c.streamRounds < 1 || c.streamSize < 1 {
		return errors.New("bench: -stream-rounds and -stream-size are at least 1")
	}
	if c.acrossRounds < 1 || c.acrossTime < time.Second {
		return errors.New("bench: -across-rounds is at least 1, -across-time at least 1s")
	}
	if c.rounds < 2 || c.tcpRounds < 1 || c.tcpTime < time.Second {
		return errors.New("bench: -rounds is at least 2, -tcp-rounds at least 1, -tcp-time at least 1s")
	}
	if c.imageRounds < 1 {
		return errors.New("bench: -image-rounds is at least 1")
	}
	if c.format != "table" && c.format != "json" {
		return fmt.Errorf("bench: -format %q: it is table or json", c.format)
	}
	for _, g := range c.groups() {
		if !slices.Contains(sectionNames, g) {
			return fmt.Errorf("bench: -only %q: it takes some of %s", g, strings.Join(sectionNames, ","))
		}
	}
	return nil
}

func (c config) groups() []string {
	if c.only == "" {
		return sectionNames
	}
	return strings.Split(c.only, ",")
}

// wants reports whether a contender is to be measured.
func (c config) wants(name string) bool {
	return slices.ContainsFunc(strings.Split(c.contenders, ","),
		func(part string) bool { return strings.Contains(name, part) })
}

func (c config) path(binary string) string { return filepath.Join(c.bin, binary) }

func main() {
	code, err := run(os.Args[1:])
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func run(args []string) (int, error) {
	cfg, err := parse(args, os.Stderr)
	if err != nil {
		return 2, err
	}
	switch os.Getenv(stageVariable) {
	case "":
		if os.Geteuid() != 0 {
			return 1, errors.New("bench makes namespaces: run it as root")
		}
		return isolate()
	case stageInit:
		return reap()
	case stageNames:
		return answerNames()
	}
	if cfg.bin == "" {
		self, err := os.Executable()
		if err != nil {
			return 1, fmt.Errorf("find the binaries: %w", err)
		}
		cfg.bin = filepath.Dir(self)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, cfg.timeout)
	defer cancel()
	if err := measure(ctx, cfg); err != nil {
		return 1, err
	}
	return 0, nil
}

// section adds to the report.
type section func(context.Context, *machine, *report) error

func grouped(f func(context.Context, *machine) ([]group, error)) section {
	return func(ctx context.Context, m *machine, rep *report) error {
		gs, err := f(ctx, m)
		rep.Groups = append(rep.Groups, gs...)
		return err
	}
}

// measure runs the sections and prints the report.
func measure(ctx context.Context, cfg config) error {
	m, err := newMachine(ctx, cfg)
	if err != nil {
		return err
	}
	defer m.close()

	var rep report
	sections := map[string]section{"attach": grouped(attachGroup), "run": grouped(runGroup),
		"containers": grouped(containersGroup),
		"streams":    grouped(streamsGroup), "tcp": tcpSection, "names": grouped(namesGroup),
		"ports": grouped(portsGroup), "engines": grouped(enginesGroup),
		"across": acrossSection, "images": imagesSection}
	for _, name := range cfg.groups() {
		fmt.Fprintf(os.Stderr, "bench: %s\n", name)
		if err := sections[name](ctx, m, &rep); err != nil {
			return fmt.Errorf("bench %s: %w", name, err)
		}
	}
	rep.Absent = m.absent
	if cfg.format == "json" {
		return rep.json(os.Stdout)
	}
	return rep.table(os.Stdout)
}

// command runs a program and gives back its standard output; its standard error is in the error.
func command(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		detail := ""
		if errors.As(err, &exit) {
			detail = ": " + strings.TrimSpace(string(exit.Stderr))
		}
		return out, fmt.Errorf("%s %s: %w%s", name, strings.Join(args, " "), err, detail)
	}
	return out, nil
}
