// Command net is the command line of vethloom. See docs/cli.md.
package main

import (
	"context"
	"os"

	"github.com/vethloom/vethloom/internal/cli"
)

// Set by the linker.
var (
	version = "devel"
	commit  = "unknown"
)

func main() {
	os.Exit(cli.New(version, commit).Run(context.Background(), os.Args[1:]))
}
