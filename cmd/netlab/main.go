// Netlab builds clusters inside one machine, breaks them on purpose, and runs the labs.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	a := &app{out: os.Stdout}
	err := a.command().ExecuteContext(ctx)
	var exit exitCode
	if errors.As(err, &exit) {
		os.Exit(int(exit))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "netlab:", err)
		os.Exit(1)
	}
}

// exitCode is that of a command which netlab ran.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// app is one invocation.
type app struct {
	out  io.Writer
	name string // of the lab
	dir  string // of labs
}

func (a *app) command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "netlab",
		Short: "A cluster of hosts inside one machine",
		Long: "Netlab builds hosts out of network namespaces on an isolated underlay, with a netd on each and\n" +
			"an etcd for all, breaks them on purpose, and runs the labs: documents that explain and prove.\n\n" +
			"Nothing of it touches the machine's own network, and netlab down removes everything.",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.PersistentFlags().StringVar(&a.name, "name", "lab", "name of the lab")
	cmd.PersistentFlags().StringVar(&a.dir, "dir", lab.DefaultDir, "directory that labs live in")
	cmd.AddCommand(a.up(), a.down(), a.ls(), a.exec(), a.shell(), a.fault(), a.run(), a.list(), etcd())
	return cmd
}

// root refuses users who can do nothing with a lab.
func root(*cobra.Command, []string) error { return lab.NeedRoot() }

func (a *app) up() *cobra.Command {
	var c lab.Config
	cmd := &cobra.Command{
		Use: "up", Short: "Build a lab", Args: cobra.NoArgs, PreRunE: root,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Name, c.Dir = a.name, a.dir
			l, err := lab.Up(cmd.Context(), c)
			if err != nil {
				return err
			}
			a.describe(l)
			fmt.Fprintf(a.out, "\nnetlab shell%s n1    netlab down%s\n", a.nameFlag(), a.nameFlag())
			return nil
		},
	}
	cmd.Flags().SortFlags = false
	c.Bind(cmd.Flags())
	return cmd
}

// nameFlag is what a command line needs to mean this lab.
func (a *app) nameFlag() string {
	s := ""
	if a.name != "lab" {
		s += " --name " + a.name
	}
	if a.dir != lab.DefaultDir {
		s += " --dir " + a.dir
	}
	return s
}

func (a *app) down() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "down", Short: "Remove a lab: processes, namespaces, mounts, files", Args: cobra.NoArgs, PreRunE: root,
		RunE: func(cmd *cobra.Command, _ []string) error {
			names := []string{a.name}
			if all {
				var err error
				if names, err = lab.List(a.dir); err != nil {
					return err
				}
			}
			var errs []error
			for _, name := range names {
				errs = append(errs, lab.Down(cmd.Context(), a.dir, name))
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "remove every lab of this directory")
	return cmd
}

func (a *app) ls() *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use: "ls", Short: "List labs and their hosts", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			names, err := lab.List(a.dir)
			if err != nil {
				return err
			}
			for i, name := range names {
				if quiet {
					fmt.Fprintln(a.out, name)
					continue
				}
				if i > 0 {
					fmt.Fprintln(a.out)
				}
				l, err := lab.Open(a.dir, name)
				if err != nil {
					fmt.Fprintf(a.out, "%s: incomplete: netlab down --name %s\n", name, name)
					continue
				}
				a.describe(l)
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "names only")
	return cmd
}

// describe prints a lab as a table.
func (a *app) describe(l *lab.Lab) {
	state := ""
	if !l.Ready {
		state = ", incomplete"
	}
	fmt.Fprintf(a.out, "lab %s: %d nodes, etcd %s%s\n", l.Name, l.Nodes, l.Etcd, state)
	w := tabwriter.NewWriter(a.out, 0, 4, 3, ' ', 0)
	fmt.Fprintln(w, "HOST\tROLE\tADDRESS\tDAEMON\tFAULTS")
	for _, m := range l.Members {
		addrs := ""
		for i, addr := range m.Addrs() {
			if i > 0 {
				addrs += ", "
			}
			addrs += addr.String()
		}
		daemon := "stopped"
		switch {
		case m.Off:
			daemon = "host is off"
		case m.Running():
			daemon = fmt.Sprintf("pid %d", m.Proc.PID)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", m.Name, m.Kind, addrs, daemon, strings.Join(l.FaultsOf(m.Name), ", "))
	}
	w.Flush()
}
