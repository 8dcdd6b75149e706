package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/vethloom/vethloom/internal/lab"
)

func (a *app) fault() *cobra.Command {
	cmd := &cobra.Command{
		Use: "fault", Short: "Break a lab on purpose, and heal it",
		Example: "  netlab fault kill n2          netlab fault start n2\n  netlab fault cut n3           netlab " +
			"fault heal n3\n  netlab fault partition n1     netlab fault join n1\n  netlab fault drop-udp n2 8472 " +
			"netlab fault heal",
	}
	for _, f := range lab.FaultCommands() {
		cmd.AddCommand(&cobra.Command{
			Use: strings.TrimSpace(f.Name + " " + f.Args), Short: f.Short, PreRunE: root,
			RunE: func(cmd *cobra.Command, args []string) error {
				l, err := lab.Open(a.dir, a.name)
				if err != nil {
					return err
				}
				return l.Fault(cmd.Context(), append([]string{f.Name}, args...)...)
			},
		})
	}
	return cmd
}
