package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/internal/build/request"
	"golang.org/x/sys/unix"
)

// build is carried out by another program, whose client of BuildKit is larger than all of net.
func (a images) build() *cobra.Command {
	var r request.Request
	cmd := &cobra.Command{
		Use: "build [flags] CONTEXT", Short: "Build an image from a Dockerfile, by BuildKit", Args: cobra.ExactArgs(1),
		Long: "Build an image from a Dockerfile, by BuildKit: a buildkitd that runs, or one that is started for the " +
			"time of the build, whose steps are on networks of vethloom. CONTEXT is a directory, - for a tar or a " +
			"Dockerfile on standard input, or a URL.",
		GroupID: groupThings,
		Example: "  net build -t mine:1 .\n" +
			"  net build -t mine:2 --network web --build-arg VERSION=2 -f app.Dockerfile .",
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Context = args[0]
			if err := r.Check(); err != nil {
				return fmt.Errorf("build: %w", err)
			}
			path, err := request.Beside(request.Program)
			if err != nil {
				return fmt.Errorf("build: %w", err)
			}
			argv := append([]string{request.Program}, request.Args(cmd.Flags())...)
			if err := unix.Exec(path, append(argv, "--", r.Context), os.Environ()); err != nil {
				return fmt.Errorf("build: run %s: %w", path, err)
			}
			return nil
		},
	}
	r.Flags(cmd.Flags())
	return cmd
}
