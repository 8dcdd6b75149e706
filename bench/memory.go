package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// resident is the memory that a process holds, in MB.
func resident(pid int) (float64, error) { return memory(pid, "VmRSS:") }

// peak is the most memory that a process has held since its start or since forgetPeak, in MB.
func peak(pid int) (float64, error) { return memory(pid, "VmHWM:") }

func memory(pid int, field string) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), field)
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0, errors.New("/proc says nothing of its memory")
	}
	kb, err := strconv.Atoi(fields[0])
	return float64(kb) / 1024, err
}

// forgetPeak has the kernel count the peak of a process from what it holds now.
func forgetPeak(pid int) error {
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0o200); err != nil {
		return fmt.Errorf("forget the peak of process %d: %w", pid, err)
	}
	return nil
}

// glance is how often a command is looked at: its peak is gone when it ends, and what it says of itself then has that
// of this process in it.
const glance = 10 * time.Millisecond

// watched runs a program and says what it printed and the most memory that it held, in MB. What it printed to its
// standard error is in the error.
func watched(ctx context.Context, line []string) (out string, most float64, err error) {
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		return "", 0, fmt.Errorf("start %s: %w", line[0], err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(glance)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			if err != nil {
				err = fmt.Errorf("%s: %w: %s", strings.Join(line, " "), err, strings.TrimSpace(stderr.String()))
			}
			return strings.TrimSpace(stdout.String()), most, err
		case <-tick.C:
			if held, err := peak(cmd.Process.Pid); err == nil { // it may have ended just now
				most = max(most, held)
			}
		}
	}
}
