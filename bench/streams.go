package main

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// speaker is a command line that runs containers, docker's or ours.
type speaker struct {
	name string
	cli  []string // with what says where its daemon is
	run  []string // the image, and before it what a container has
}

// job is a way of moving bytes through a container's standard streams.
type job struct {
	name  string
	args  func(s speaker, megabytes int) []string
	input bool
}

// streamContainer is one that commands are run in.
const streamContainer = "streams"

// sayText makes megabytes of text: a file of 8 MB, as often as it takes.
func sayText(megabytes int) string {
	return fmt.Sprintf("yes 'a line of text, which is as long as those that programs write into their logs' | "+
		"head -c 8000000 > /tmp/text; for i in $(seq %d); do cat /tmp/text; done", (megabytes+7)/8)
}

var jobs = []job{
	{name: "exec: output", args: func(_ speaker, megabytes int) []string {
		return []string{"exec", streamContainer, "sh", "-c", sayText(megabytes)}
	}},
	{name: "run: output, and its log", args: func(s speaker, megabytes int) []string {
		return append(append([]string{"run", "--rm"}, s.run...), "sh", "-c", sayText(megabytes))
	}},
	{name: "exec -i: input", input: true, args: func(speaker, int) []string {
		return []string{"exec", "-i", streamContainer, "sh", "-c", "cat > /dev/null"}
	}},
	{name: "run -i: input", input: true, args: func(s speaker, _ int) []string {
		return append(append([]string{"run", "--rm", "-i"}, s.run...), "sh", "-c", "cat > /dev/null")
	}},
}

// streamsGroup compares how fast attached output and input flow, command line to process and back.
func streamsGroup(ctx context.Context, m *machine) ([]group, error) {
	g := group{Title: fmt.Sprintf("%d MB through an attached command", m.cfg.streamSize), Unit: "MB/s", More: true,
		Notes: []string{"from the start of the command line to its end; a pipe is on the other side"}}
	speakers, err := speakers(ctx, m)
	if err != nil {
		return nil, err
	}
	var all []func(context.Context) error
	for _, j := range jobs {
		for i, s := range speakers {
			line := g.series(s.name + " " + j.name)
			if i > 0 {
				line.Ours = g.Series[len(g.Series)-1-i]
			}
			all = append(all, func(ctx context.Context) error {
				took, err := timed(func() error { return s.move(ctx, j, m.cfg.streamSize) })
				line.Samples = append(line.Samples, float64(m.cfg.streamSize)/took.Seconds())
				return err
			})
		}
	}
	for round := range m.cfg.streamRounds {
		for i := range all {
			if err := all[(i+round)%len(all)](ctx); err != nil {
				return nil, err
			}
			if err := rest(ctx); err != nil {
				return nil, err
			}
		}
	}
	return []group{g}, nil
}

// speakers have a container to run commands in.
func speakers(ctx context.Context, m *machine) ([]speaker, error) {
	var all []speaker
	f, err := m.startFabric(ctx)
	if err != nil {
		return nil, err
	}
	if f != nil {
		all = append(all, speaker{"net", []string{f.net, "--host", f.host}, []string{"--network", "none", fabricImage}})
	}
	d, err := m.startDocker(ctx)
	if err != nil {
		return nil, err
	}
	if d != nil {
		all = append(all, speaker{"docker", []string{"docker", "-H", d.host},
			[]string{"--network", "none", dockerImage}})
	}
	for _, s := range all {
		args := append(append([]string{"run", "-d", "--name", streamContainer}, s.run...), "sleep", "1000000")
		if _, err := command(ctx, s.cli[0], append(s.cli[1:len(s.cli):len(s.cli)], args...)...); err != nil {
			return nil, err
		}
		remove := append(s.cli[1:len(s.cli):len(s.cli)], "rm", "-f", streamContainer)
		m.defers(func() { _, _ = command(context.WithoutCancel(ctx), s.cli[0], remove...) })
	}
	return all, nil
}

// move does the job once.
func (s speaker) move(ctx context.Context, j job, megabytes int) error {
	args := append(s.cli[1:len(s.cli):len(s.cli)], j.args(s, megabytes)...)
	cmd := exec.CommandContext(ctx, s.cli[0], args...)
	cmd.WaitDelay = time.Second
	var complaint strings.Builder
	cmd.Stderr = &complaint
	moved, err := s.flow(cmd, j.input, int64(megabytes)*1e6)
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", s.cli[0], strings.Join(args, " "), err, complaint.String())
	}
	if moved < int64(megabytes)*1e6 {
		return fmt.Errorf("%s %s: %d bytes", s.cli[0], strings.Join(args, " "), moved)
	}
	return nil
}

func (s speaker) flow(cmd *exec.Cmd, input bool, size int64) (moved int64, err error) {
	if input {
		in, err := cmd.StdinPipe()
		if err != nil {
			return 0, err
		}
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		moved, err = io.CopyBuffer(in, io.LimitReader(zeros{}, size), make([]byte, 64<<10))
		in.Close()
		if waitErr := cmd.Wait(); waitErr != nil {
			return moved, waitErr
		}
		return moved, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	buf := make([]byte, 64<<10)
	for err == nil {
		var n int
		n, err = out.Read(buf)
		moved += int64(n)
	}
	if err := cmd.Wait(); err != nil {
		return moved, err
	}
	return moved, nil
}

// zeros is an endless input.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }
