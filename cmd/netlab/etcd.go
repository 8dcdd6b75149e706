package main

import (
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/vethloom/vethloom/internal/etcd/embedded"
)

// etcd is the server that a lab runs on a host of its own where none is installed.
func etcd() *cobra.Command {
	var c embedded.Config
	cmd := &cobra.Command{
		Use: "etcd", Short: "Run the etcd that netd has inside", Args: cobra.NoArgs, Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
			s, err := embedded.Start(cmd.Context(), c)
			if err != nil {
				return err
			}
			<-cmd.Context().Done()
			return s.Close()
		},
	}
	cmd.Flags().StringVar(&c.Dir, "data", "", "directory of the data")
	cmd.Flags().StringArrayVar(&c.ClientURLs, "url", nil, "address to listen on")
	return cmd
}
