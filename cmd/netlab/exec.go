package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/lab"
)

func (a *app) exec() *cobra.Command {
	cmd := &cobra.Command{
		Use: "exec HOST [--] COMMAND [ARG…]", Short: "Run a command on a host: n1, n2, …, e1 of etcd, or underlay",
		Args: cobra.MinimumNArgs(2), PreRunE: root,
		Example: "  netlab exec n1 -- ip route\n  netlab exec n2 net ps\n  netlab exec underlay tcpdump -ni br0",
		RunE:    func(_ *cobra.Command, args []string) error { return a.enter(args[0], args[1:]) },
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func (a *app) shell() *cobra.Command {
	return &cobra.Command{
		Use: "shell HOST", Short: "Open a shell on a host", Args: cobra.ExactArgs(1), PreRunE: root,
		RunE: func(_ *cobra.Command, args []string) error {
			shell := os.Getenv("SHELL")
			if shell == "" {
				shell = "/bin/sh"
			}
			return a.enter(args[0], []string{shell})
		},
	}
}

// enter becomes the command, so that terminal, signals and exit code are its own.
func (a *app) enter(host string, args []string) error {
	l, err := lab.Open(a.dir, a.name)
	if err != nil {
		return err
	}
	if args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return errors.New("which command? netlab exec " + host + " -- COMMAND")
	}
	line, err := l.Command(host, args...)
	if err != nil {
		return err
	}
	path, err := exec.LookPath(line[0])
	if err != nil {
		return fmt.Errorf("enter %s: %w", host, err)
	}
	env := append(l.Environ(host), "PS1="+host+"\\$ ")
	names := map[string]bool{} // each name once: who looks one up may take the first or the last
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		names[name] = true
	}
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); !names[name] {
			env = append(env, e)
		}
	}
	if err := unix.Exec(path, line, env); err != nil {
		return fmt.Errorf("enter %s: %w", host, err)
	}
	return nil
}
