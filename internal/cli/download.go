package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/session"
	"github.com/vethloom/vethloom/internal/cli/show"
	"google.golang.org/grpc"
)

func (a images) imageSave(path string) *cobra.Command {
	var output, format string
	cmd := &cobra.Command{
		Use: "save [flags] IMAGE...", Short: "Write images into an archive", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.complete(imageNames, anyNumber),
		Long: `Write images into one archive, with their names. Without --format it is an OCI image layout and
what 'docker load' reads, in one.`,
		Example: "  net " + path + " -o images.tar busybox app:1\n  net " + path + " app:1 | docker load",
		RunE: func(cmd *cobra.Command, args []string) error {
			switch format {
			case "", "oci-archive", "docker-archive":
			default:
				return fmt.Errorf("--format %q: use oci-archive or docker-archive", format)
			}
			return a.download(cmd, output, func(ctx context.Context, c *client.Client) (func() ([]byte, error), error) {
				return pieces(c.Images.Save(ctx, &apiv1.SaveRequest{Images: args, Format: format}))
			})
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "-", "archive file; - for standard output")
	cmd.Flags().StringVar(&format, "format", "",
		"oci-archive or docker-archive, which has uncompressed layers (default both in one)")
	show.Must(cmd.RegisterFlagCompletionFunc("format", show.Fixed("oci-archive", "docker-archive")))
	return cmd
}

func (a containers) containerExport(path string) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "export [flags] CONTAINER", Short: "Write a container's filesystem into a tar", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.complete(containerNames, 1),
		Long: "Write a container's filesystem into a tar, without what is mounted into it. 'net import' " +
			"reads it.",
		Example: "  net " + path + " -o web.tar web\n  net " + path + " web | tar -t",
		RunE: func(cmd *cobra.Command, args []string) error {
			type next = func() ([]byte, error)
			return images(a).download(cmd, output, func(ctx context.Context, c *client.Client) (next, error) {
				return pieces(c.Containers.Export(ctx, &apiv1.ExportContainerRequest{Container: args[0]}))
			})
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "-", "tar file; - for standard output")
	return cmd
}

// pieces reads the data of a stream, one message at a time.
func pieces[T any, M interface {
	*T
	GetData() []byte
}](stream grpc.ServerStreamingClient[T], err error) (func() ([]byte, error), error) {
	if err != nil {
		return nil, err
	}
	return func() ([]byte, error) {
		m, err := stream.Recv()
		return M(m).GetData(), err
	}, nil
}

// download writes what netd sends into a file, which is there whole or not at all, or to standard output for -.
func (a images) download(cmd *cobra.Command, name string,
	open func(context.Context, *client.Client) (func() ([]byte, error), error)) error {
	if _, ok := session.Terminal(a.Out); ok && name == "-" {
		return fmt.Errorf("%s: standard output is a terminal: name a file with -o FILE, or pipe it on", cmd.Name())
	}
	// Who interrupts finds no part of a file.
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	next, err := open(ctx, c)
	if err == nil {
		if name == "-" {
			err = copyPieces(a.Out, next)
		} else {
			err = a.writeFile(cmd.Name(), name, next)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", cmd.Name(), client.Explain(err))
	}
	return nil
}

func copyPieces(w io.Writer, next func() ([]byte, error)) error {
	for {
		b, err := next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return client.Explain(err)
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
}

// writeFile writes a file beside its place, and moves it there when it is whole. What is no regular file is written as
// it is.
func (a images) writeFile(what, name string, next func() ([]byte, error)) (err error) {
	path := name
	if dir, err := a.workingDir(); err == nil && !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		if st.IsDir() {
			return fmt.Errorf("%s is a directory: name a file", name)
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(copyPieces(f, next), f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return named(name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	w, done := a.writing(what+" "+filepath.Base(name), f)
	err = copyPieces(w, next)
	done()
	if err = errors.Join(err, f.Close()); err != nil {
		return named(name, err)
	}
	return named(name, os.Rename(f.Name(), path))
}

// named tells of a file by the name that was given, and not by that which it has until it is whole.
func named(name string, err error) error {
	var path *os.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		return fmt.Errorf("write %s: %w", name, path.Err)
	case errors.As(err, &link):
		return fmt.Errorf("write %s: %w", name, link.Err)
	}
	return err
}
