package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/shim"
)

// Processes are those of a container, as ps(1) shows them.
type Processes struct {
	Titles []string
	Rows   [][]string // as long as Titles
}

const (
	psTime   = 10 * time.Second
	psOutput = 16 << 20 // bytes
	psArgs   = 64
	psLength = 4096 // bytes of all arguments
)

// Top lists the processes of a container with ps(1) of the host: those of its cgroup, further commands too.
func (e *viewer) Top(ctx context.Context, ref string, args []string) (Processes, error) {
	c, rec, err := e.glance(ctx, ref)
	if err != nil {
		return Processes{}, err
	}
	if len(args) == 0 {
		args = []string{"-ef"}
	}
	if err := checkPS(args); err != nil {
		return Processes{}, err
	}
	if !isLive(rec.Status) {
		return Processes{}, notRunning(rec.Spec.Name)
	}
	pids, err := shim.CgroupProcesses(e.cgroupOf(c))
	if err != nil {
		return Processes{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, psTime)
	defer cancel()
	out, err := ps(ctx, args, pids)
	if err != nil {
		return Processes{}, err
	}
	return parsePS(out, pids)
}

// checkPS refuses arguments that have ps(1) do something else than list processes.
func checkPS(args []string) error {
	length := 0
	for _, a := range args {
		length += len(a)
		long, isLong := strings.CutPrefix(a, "--")
		name, _, _ := strings.Cut(long, "=")
		switch {
		case strings.ContainsFunc(a, func(r rune) bool { return r < ' ' || r > '~' }):
			return psArgument(a, "has characters that are not printable ASCII")
		case isLong && !slices.Contains(psOptions(), name):
			return psArgument(a, "is no option for which processes to show, and how")
		}
	}
	if len(args) > psArgs || length > psLength {
		return psArgument(fmt.Sprintf("%d arguments of %d bytes", len(args), length), "is more than anybody needs")
	}
	return nil
}

// psOptions are long options of ps(1). --help, --version and --info list no processes.
func psOptions() []string {
	return []string{"cols", "columns", "context", "cumulative", "deselect", "forest", "format", "group", "Group",
		"headers", "lines", "pid", "ppid", "quick-pid", "rows", "sid", "sort", "tty", "user", "User", "width"}
}

func psArgument(value, reason string) error {
	return invalid("ps-args", value, reason, "use options of ps(1) such as aux, or -o pid,user,args")
}

// ps runs ps(1) for some processes; for all where the arguments do not go with that.
func ps(ctx context.Context, args []string, pids []int) ([]byte, error) {
	path, err := exec.LookPath("ps")
	if err != nil {
		return nil, &cnm.Error{Kind: cnm.ErrUnavailable, Cause: err, Field: "ps", Reason: "the host has none",
			Remedy: "install procps"}
	}
	list := make([]string, len(pids))
	for i, p := range pids {
		list[i] = strconv.Itoa(p)
	}
	var out []byte
	for _, quick := range []bool{true, false} {
		all := args
		if quick {
			joined := strings.Join(list, ",")
			if joined == "" || len(joined) > 1<<16 { // the kernel takes 128 KiB
				continue
			}
			all = slices.Concat(args, []string{"-q", joined})
		}
		if out, err = psOnce(ctx, path, all); err == nil || errors.Is(err, cnm.ErrExhausted) || ctx.Err() != nil {
			break
		}
	}
	return out, err
}

// psOnce runs ps(1) for what it writes, in English and not as its environment would have it.
func psOnce(ctx context.Context, path string, args []string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.WaitDelay = time.Second
	out, problem := &bounded{max: psOutput}, &bounded{max: 4096}
	cmd.Stdout, cmd.Stderr = out, problem
	err := cmd.Run()
	switch {
	case out.over:
		return nil, &cnm.Error{Kind: cnm.ErrExhausted, Field: "ps-args", Value: strings.Join(args, " "),
			Reason: fmt.Sprintf("ps writes more than %d MiB", psOutput>>20), Remedy: "ask for fewer columns"}
	case ctx.Err() != nil:
		return nil, fmt.Errorf("run ps: %w", ctx.Err())
	case err != nil:
		told, _, _ := strings.Cut(strings.TrimSpace(problem.String()), "\n")
		return nil, invalid("ps-args", strings.Join(args, " "), fmt.Sprintf("ps fails: %v: %s", err, told),
			"see ps(1) of the host")
	}
	return out.Bytes(), nil
}

// bounded keeps what is written to it, up to a size.
type bounded struct {
	bytes.Buffer
	max  int
	over bool
}

// Write takes everything, so that the writer goes on to its end.
func (b *bounded) Write(p []byte) (int, error) {
	if room := b.max - b.Len(); len(p) > room {
		b.over = true
		b.Buffer.Write(p[:max(room, 0)])
		return len(p), nil
	}
	return b.Buffer.Write(p)
}

// parsePS reads what ps(1) has written, of these processes alone. The last column is the rest of the line.
func parsePS(text []byte, pids []int) (Processes, error) {
	p := Processes{}
	at := -1
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if p.Titles == nil {
			p.Titles = fields
			if at = slices.Index(fields, "PID"); at < 0 {
				return Processes{}, invalid("ps-args", strings.TrimSpace(line), "Couldn't find PID field in ps output",
					"have it among the columns: -o pid,user,args")
			}
			continue
		}
		last := len(p.Titles) - 1
		if len(fields) <= at {
			continue
		}
		pid, err := strconv.Atoi(fields[at])
		if err != nil || !slices.Contains(pids, pid) {
			continue
		}
		for len(fields) <= last {
			fields = append(fields, "")
		}
		row := slices.Clone(fields[:last])
		p.Rows = append(p.Rows, append(row, strings.Join(fields[last:], " ")))
	}
	if at < 0 {
		return Processes{}, errors.New("ps has written nothing")
	}
	return p, nil
}
