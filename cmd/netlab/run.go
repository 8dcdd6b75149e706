package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/vethloom/vethloom/internal/lab"
	"github.com/vethloom/vethloom/internal/lab/script"
	"github.com/vethloom/vethloom/labs"
)

func (a *app) list() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the labs that run explains", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			all, err := labs.All()
			if err != nil {
				return err
			}
			for _, d := range all {
				s, err := script.Parse(d.Text)
				if err != nil {
					return fmt.Errorf("%s: %w", d.Path, err)
				}
				fmt.Fprintf(a.out, "%-16s %s\n", d.Name, s.Title)
			}
			fmt.Fprintln(a.out, "\nRead one in labs/, or see it happen: netlab run 01")
			return nil
		},
	}
}

func (a *app) run() *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use: "run LAB", Short: "Run a lab: its text, its commands and what they print", Args: cobra.ExactArgs(1),
		PreRunE: root,
		Example: "  netlab run 04\n  netlab run labs/04-vxlan.md\n  netlab run --keep 07    leaves the hosts for " +
			"you to look at",
		RunE: func(cmd *cobra.Command, args []string) error { return a.runLab(cmd, args[0], keep) },
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave the lab as it is at the end")
	return cmd
}

func (a *app) runLab(cmd *cobra.Command, name string, keep bool) (err error) {
	d, err := labs.Find(name)
	if err != nil {
		return err
	}
	s, err := script.Parse(d.Text)
	if err != nil {
		return fmt.Errorf("%s: %w", d.Path, err)
	}
	c, err := s.Config()
	if err != nil {
		return fmt.Errorf("%s: %w", d.Path, err)
	}
	if !cmd.Flags().Changed("name") {
		a.name = "run-" + d.Name
		if len(a.name) > 20 {
			a.name = a.name[:20]
		}
	}
	c.Name, c.Dir = a.name, a.dir
	l, err := lab.Up(cmd.Context(), c)
	if err != nil {
		return err
	}
	if keep {
		defer fmt.Fprintf(a.out, "\nThe lab stays: netlab shell%s n1, netlab down%s\n", a.nameFlag(), a.nameFlag())
	} else {
		defer func() {
			undo, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), time.Minute)
			defer cancel()
			err = errors.Join(err, lab.Down(undo, a.dir, a.name))
		}()
	}
	r := script.Runner{Lab: l, Print: script.Printer{Out: a.out, Colour: term.IsTerminal(int(os.Stdout.Fd()))}}
	if err := r.Run(cmd.Context(), s); err != nil {
		return fmt.Errorf("%s: %w", d.Path, err)
	}
	return nil
}
