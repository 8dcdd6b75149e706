package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"github.com/moby/go-archive"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/session"
	"github.com/vethloom/vethloom/internal/cli/show"
	"github.com/vethloom/vethloom/internal/cli/view"
)

// copying is a cp under way.
type copying struct {
	upkeep
	follow, owners, quiet bool
	bytes                 int64
}

func (a upkeep) containerCopy() *cobra.Command {
	o := &copying{upkeep: a}
	cmd := &cobra.Command{
		Use:   "cp [flags] CONTAINER:PATH PATH|-\n  cp [flags] PATH|- CONTAINER:PATH",
		Short: "Copy files from a container, or to it", GroupID: groupRun, Args: cobra.ExactArgs(2),
		Long: `Copy files from a container, or to it, whether it runs or not. A directory is copied into one that
exists, or becomes one that does not; with /. at its end, what is in it is copied. A - is a tar on standard output or
standard input, which is unpacked into the directory. Links in the container lead nowhere outside of it.`,
		Example: "  net cp web:/etc/app.conf .\n  net cp ./site/. web:/srv/www\n  net cp web:/var/log - | tar t",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			from, fromPath := containerPath(args[0])
			to, toPath := containerPath(args[1])
			switch {
			case from != "" && to != "":
				return errors.New("cp copies between a container and this machine, not between containers")
			case from == "" && to == "":
				return fmt.Errorf("neither %q nor %q is a path in a container: write it CONTAINER:PATH", args[0],
					args[1])
			case from != "":
				return o.out(ctx, c, from, fromPath, toPath)
			}
			return o.in(ctx, c, fromPath, to, toPath)
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&o.follow, "follow-link", "L", false, "copy what a link at the end of the source leads to")
	f.BoolVarP(&o.owners, "archive", "a", false, "keep owners; else those of the container's root, or of who runs this")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "do not say how much was copied")
	return cmd
}

// containerPath takes CONTAINER:PATH apart. What begins as a path of this machine does, ./a:b for example, is one.
func containerPath(arg string) (container, name string) {
	container, name, ok := strings.Cut(arg, ":")
	if !ok || filepath.IsAbs(arg) || strings.HasPrefix(arg, ".") || container == "" {
		return "", arg
	}
	return container, name
}

// out copies from a container.
func (o *copying) out(ctx context.Context, c *client.Client, container, src, dst string) error {
	if dst == "-" {
		if _, ok := session.Terminal(o.Out); ok {
			return errors.New("a tar is nothing for a terminal: redirect standard output")
		}
	}
	rebase := ""
	if o.follow {
		st, err := c.Containers.StatPath(ctx, &apiv1.StatPathRequest{Container: container, Path: src})
		if err == nil && fs.FileMode(st.GetMode())&fs.ModeSymlink != 0 {
			src, rebase = archive.GetRebaseName(src, linkTarget(src, st))
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Containers.CopyOut(ctx, &apiv1.CopyOutRequest{Container: container, Path: src})
	next, err := pieces(stream, err)
	if err != nil {
		return about("copy from", container, err)
	}
	first, err := stream.Recv()
	if err != nil {
		return about("copy from", container, err)
	}
	content := &tarStream{of: o, recv: next}
	if dst == "-" {
		_, err := io.Copy(o.Out, content)
		return about("copy from", container, err)
	}
	info := archive.CopyInfo{Path: src, Exists: true, RebaseName: rebase,
		IsDir: fs.FileMode(first.GetStat().GetMode()).IsDir()}
	if err := o.unpack(content, info, dst); err != nil {
		return about("copy from", container, err)
	}
	o.tell(dst)
	return nil
}

// linkTarget is where a link of a container leads, in the container.
func linkTarget(name string, st *apiv1.PathStat) string {
	if to := st.GetLinkTarget(); path.IsAbs(to) {
		return to
	}
	return path.Join(path.Dir(path.Clean("/"+name)), st.GetLinkTarget())
}

// unpack puts a tar of a container where the user wants it.
func (o *copying) unpack(content io.Reader, info archive.CopyInfo, dst string) error {
	local, err := o.local(dst)
	if err != nil {
		return err
	}
	if info.RebaseName != "" {
		_, base := archive.SplitPathDirEntry(info.Path)
		rebased := archive.RebaseArchiveEntries(content, base, info.RebaseName)
		defer rebased.Close() //nolint:errcheck // it is read to its end, or not wanted any more
		content = rebased
	}
	to, err := archive.CopyInfoDestinationPath(local)
	if err != nil {
		return err
	}
	dir, prepared, err := archive.PrepareArchiveCopy(content, info, to)
	if err != nil {
		return err
	}
	defer prepared.Close() //nolint:errcheck // likewise
	// Not Untar: it would look for a compression by the first bytes, which are the container's.
	return archive.UntarUncompressed(prepared, dir, &archive.TarOptions{NoLchown: !o.owners,
		NoOverwriteDirNonDir: true})
}

// local is an absolute path of this machine, with what its end means.
func (o *copying) local(name string) (string, error) {
	abs, err := o.path(name)
	return archive.PreserveTrailingDotOrSeparator(filepath.Clean(abs), name), err
}

// in copies to a container.
func (o *copying) in(ctx context.Context, c *client.Client, src, container, dst string) error {
	to, err := destination(ctx, c, container, dst)
	if err != nil {
		return about("copy to", container, err)
	}
	content, dir := o.In, to.Path
	if src == "-" {
		if !to.IsDir {
			return fmt.Errorf("copy to %s: %q is no directory, which a tar needs", container, dst)
		}
	} else {
		packed, where, err := o.pack(src, to)
		if err != nil {
			return err
		}
		defer packed.Close() //nolint:errcheck // it is read to its end, or not wanted any more
		content, dir = packed, where
	}
	if err := o.send(ctx, c, content, &apiv1.CopyInOptions{Container: container, Path: dir, NoOverwriteDir: true,
		CopyUidGid: o.owners}); err != nil {
		return about("copy to", container, err)
	}
	o.tell(container + ":" + dst)
	return nil
}

// destination finds out what there is at a path of a container. A link at its end is followed once.
func destination(ctx context.Context, c *client.Client, container, dst string) (archive.CopyInfo, error) {
	to := archive.CopyInfo{Path: dst}
	st, err := c.Containers.StatPath(ctx, &apiv1.StatPathRequest{Container: container, Path: dst})
	if err == nil && fs.FileMode(st.GetMode())&fs.ModeSymlink != 0 {
		to.Path = linkTarget(dst, st)
		st, err = c.Containers.StatPath(ctx, &apiv1.StatPathRequest{Container: container, Path: to.Path})
	}
	switch code := client.CodeOf(err); {
	case err == nil:
		to.Exists, to.IsDir = true, fs.FileMode(st.GetMode()).IsDir()
	case code == codes.NotFound: // the file; or the container, which the copy will say
	default:
		return to, err
	}
	return to, nil
}

// pack makes a tar of what is to be copied, and says where in the container to unpack it.
func (o *copying) pack(src string, to archive.CopyInfo) (content io.ReadCloser, dir string, err error) {
	local, err := o.local(src)
	if err != nil {
		return nil, "", err
	}
	info, err := archive.CopyInfoSourcePath(local, o.follow)
	if err != nil {
		return nil, "", fmt.Errorf("copy %s: %w", src, err)
	}
	if info.IsDir && to.Exists && !to.IsDir {
		return nil, "", fmt.Errorf("copy %s: it is a directory, and %s in the container is none", src, to.Path)
	}
	if !info.IsDir && !to.Exists && strings.HasSuffix(to.Path, "/") {
		return nil, "", fmt.Errorf("copy %s: there is no directory %s in the container", src, to.Path)
	}
	raw, err := archive.TarResource(info)
	if err != nil {
		return nil, "", fmt.Errorf("copy %s: %w", src, err)
	}
	dir, prepared, err := archive.PrepareArchiveCopy(raw, info, to)
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("copy %s: %w", src, err), raw.Close())
	}
	return &both{prepared, raw}, dir, nil
}

// both closes what it reads, and what that reads.
type both struct {
	io.ReadCloser
	under io.Closer
}

func (b *both) Close() error { return errors.Join(b.ReadCloser.Close(), b.under.Close()) }

func (o *copying) send(ctx context.Context, c *client.Client, content io.Reader, options *apiv1.CopyInOptions) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Containers.CopyIn(ctx)
	if err != nil {
		return err
	}
	err = stream.Send(&apiv1.CopyInRequest{Message: &apiv1.CopyInRequest_Options{Options: options}})
	if err == nil {
		err = sendChunks(content, func(b []byte) error {
			o.bytes += int64(len(b))
			return stream.Send(&apiv1.CopyInRequest{Message: &apiv1.CopyInRequest_Data{Data: b}})
		})
	}
	if err != nil && !errors.Is(err, io.EOF) { // EOF: netd has ended the call, and says why
		return err
	}
	_, err = stream.CloseAndRecv()
	return err
}

// tell says how much was copied, to who can see it.
func (o *copying) tell(to string) {
	if _, ok := session.Terminal(o.Err); ok && !o.quiet {
		show.Printf(o.Err, "Successfully copied %s to %s\n", view.Size(o.bytes), to)
	}
}

// tarStream reads the messages of a stream.
type tarStream struct {
	of   *copying
	recv func() ([]byte, error)
	rest []byte
}

func (t *tarStream) Read(b []byte) (int, error) {
	for len(t.rest) == 0 {
		var err error
		if t.rest, err = t.recv(); err != nil {
			return 0, err
		}
	}
	n := copy(b, t.rest)
	t.rest, t.of.bytes = t.rest[n:], t.of.bytes+int64(n)
	return n, nil
}
