package iptables

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/vethloom/vethloom/internal/kern/netns"
)

// The variants of iptables. The default is what the administrator's own command is.
const (
	Default = ""
	Nft     = "nft"
	Legacy  = "legacy"
)

// Bounds of one run of a tool: how long it waits for the lock that its users share, and how long for all.
const (
	lockWait = "5"
	runTime  = 20 * time.Second
)

// tool runs the commands of one variant in one namespace.
type tool struct {
	fd      int
	variant string
}

// command is the path of iptables-save, ip6tables-legacy-restore and the like.
func (t tool) command(family, verb string) string {
	if t.variant == Default || family == bridgeTool {
		return family + "-" + verb
	}
	return family + "-" + t.variant + "-" + verb
}

func (t tool) run(ctx context.Context, input string, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, runTime)
	defer cancel()
	var out, complaint bytes.Buffer
	err := netns.Enter(t.fd, func() error {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &complaint
		cmd.WaitDelay = time.Second
		return cmd.Run()
	})
	if err != nil {
		said, _, _ := strings.Cut(strings.TrimSpace(complaint.String()), "\n")
		return "", fmt.Errorf("%s: %w: %s", name, err, said)
	}
	return out.String(), nil
}

// save reads every table that the family has.
func (t tool) save(ctx context.Context, family string) (tables, error) {
	text, err := t.run(ctx, "", t.command(family, "save"))
	if err != nil {
		return nil, err
	}
	all, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.command(family, "save"), err)
	}
	return all, nil
}

// restore carries out a batch: table by table, each as a whole or not at all.
func (t tool) restore(ctx context.Context, family, text string) error {
	args := []string{"--noflush"}
	if family != bridgeTool {
		args = append(args, "-w", lockWait)
	}
	_, err := t.run(ctx, text, t.command(family, "restore"), args...)
	return err
}
