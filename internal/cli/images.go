package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/session"
	"github.com/vethloom/vethloom/internal/cli/show"
	"github.com/vethloom/vethloom/internal/cli/view"
)

func (a images) imageCommand() *cobra.Command {
	return group("image", "Manage images", groupThings, append(a.moving("image "), a.imageList("ls"), a.imageInspect(),
		a.imageRemove("rm"), a.imagePrune())...)
}

// imageShortcuts are the same at the top level, as hands know them.
func (a images) imageShortcuts() []*cobra.Command {
	all := append(a.moving(""), a.imageList("images"), a.imageRemove("rmi"), a.build())
	for _, c := range all {
		c.GroupID = groupThings
	}
	return append(all, a.loginCommand(), a.logoutCommand())
}

// moving are the commands that have the same name below image and at the top.
func (a images) moving(path string) []*cobra.Command {
	return []*cobra.Command{a.imagePull(path + "pull"), a.imagePush(path + "push"), a.imageTag(path + "tag"),
		a.imageImport(path + "import"), a.imageLoad(path + "load"), a.imageSave(path + "save"),
		a.imageHistory(path + "history")}
}

func (a images) imageImport(path string) *cobra.Command {
	o := &apiv1.ImportOptions{}
	cmd := &cobra.Command{
		Use: "import [flags] FILE|- [NAME[:TAG]]", Short: "Make an image of a root filesystem tar",
		Args: cobra.RangeArgs(1, 2),
		Example: "  net " + path + " busybox.tar.gz busybox\n  tar -C rootfs -c . | net " + path +
			" -c 'CMD [\"/bin/sh\"]' - mine:1",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				o.Reference = args[1]
			}
			return a.upload(cmd, args[0], func(ctx context.Context, c *client.Client, r io.Reader) error {
				return a.importFrom(ctx, c, o, r)
			})
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&o.Changes, "change", "c", nil, changeUsage)
	f.StringVarP(&o.Message, "message", "m", "", "comment in the image's history")
	f.StringVarP(&o.Author, "author", "a", "", "who made the image")
	f.StringVar(&o.Platform, "platform", "", "OS/ARCHITECTURE[/VARIANT] of what it holds (default this host's)")
	return cmd
}

func (a images) importFrom(ctx context.Context, c *client.Client, o *apiv1.ImportOptions, r io.Reader) error {
	stream, err := c.Images.Import(ctx)
	if err != nil {
		return client.Explain(err)
	}
	err = stream.Send(&apiv1.ImportRequest{Message: &apiv1.ImportRequest_Options{Options: o}})
	if err == nil {
		err = sendChunks(r, func(b []byte) error {
			return stream.Send(&apiv1.ImportRequest{Message: &apiv1.ImportRequest_Data{Data: b}})
		})
	}
	if err != nil && !errors.Is(err, io.EOF) { // EOF: the answer tells why
		return err
	}
	resp, err := stream.CloseAndRecv()
	if err != nil {
		return client.Explain(err)
	}
	show.Println(a.Out, resp.GetId())
	return nil
}

func (a images) imageLoad(path string) *cobra.Command {
	var input string
	var quiet bool
	cmd := &cobra.Command{
		Use: "load [flags]", Short: "Load images from a docker save archive or an OCI layout", Args: cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		Example:           "  net " + path + " -i images.tar\n  docker save alpine | net " + path,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, ok := session.Terminal(a.In); ok && input == "-" {
				return errors.New("load: standard input is a terminal: name the archive with -i FILE, or pipe it in")
			}
			return a.upload(cmd, input, func(ctx context.Context, c *client.Client, r io.Reader) error {
				return a.loadFrom(ctx, c, r, quiet)
			})
		},
	}
	cmd.Flags().StringVarP(&input, "input", "i", "-", "archive file; - for standard input")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print the names only")
	return cmd
}

func (a images) loadFrom(ctx context.Context, c *client.Client, r io.Reader, quiet bool) error {
	stream, err := c.Images.Load(ctx)
	if err != nil {
		return client.Explain(err)
	}
	err = sendChunks(r, func(b []byte) error { return stream.Send(&apiv1.LoadRequest{Data: b}) })
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	resp, err := stream.CloseAndRecv()
	if err != nil {
		return client.Explain(err)
	}
	for _, ref := range resp.GetReferences() {
		if quiet {
			show.Println(a.Out, ref)
		} else {
			fmt.Fprintln(a.Out, "Loaded image:", ref)
		}
	}
	return nil
}

// sendChunks sends a file piece by piece. An error of the reader wins over
// that of the stream.
func sendChunks(r io.Reader, send func([]byte) error) error {
	buf := make([]byte, 256<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if err := send(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the archive: %w", err)
		}
	}
}

// upload opens a file, or standard input for -, and shows how far it is read.
func (a images) upload(cmd *cobra.Command, name string, f func(context.Context, *client.Client, io.Reader) error) (
	err error) {
	// A stream that is not finished must be given up, or netd would take the
	// part of a file for the whole.
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	r, size := a.In, int64(0)
	if name != "-" {
		path := name
		if dir, err := a.workingDir(); err == nil && !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		file, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("%s: %w", cmd.Name(), err)
		}
		defer file.Close()
		st, err := file.Stat()
		if err != nil {
			return fmt.Errorf("%s: %w", cmd.Name(), err)
		}
		if st.IsDir() {
			piped := "import -"
			if cmd.Name() == "load" {
				piped = "load"
			}
			return fmt.Errorf("%s: %s is a directory, not a tar: pipe one in with 'tar -C %s -c . | net %s'",
				cmd.Name(), name, name, piped)
		}
		r, size = file, st.Size()
	}
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	r, done := a.progress(cmd.Name()+" "+filepath.Base(name), r, size)
	err = f(ctx, c, r)
	done(err == nil)
	if err != nil {
		return fmt.Errorf("%s %s: %w", cmd.Name(), name, err)
	}
	return nil
}

func (a images) imageList(use string) *cobra.Command {
	var digests bool
	l := &show.Lister[imageRow]{}
	a.imageColumns(l)
	var filters []string
	cmd := &cobra.Command{
		Use: use + " [flags] [NAME[:TAG]]", Short: "List images", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: a.complete(imageNames, 1),
		Example: "  net " + map[string]string{"ls": "image ls", "images": "images"}[use] +
			" --format '{{.Repository}}:{{.Tag}} {{.Size}}'",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			for _, arg := range args {
				filters = append(filters, "reference="+arg)
			}
			resp, err := c.Images.List(ctx, &apiv1.ListImagesRequest{Filters: filters})
			if err != nil {
				return client.Explain(err)
			}
			l.Columns[digestColumn].Hidden = !digests
			return l.Show(a.Out, imageRows(resp.GetImages(), l.Quiet, digests || strings.Contains(l.Format, ".Digest")))
		}),
	}
	l.Flags(cmd)
	cmd.Flags().StringArrayVarP(&filters, "filter", "f", nil,
		"reference=PATTERN, label=KEY[=VALUE], dangling=true|false, before=IMAGE, since=IMAGE, until=TIME (or how "+
			"long ago: 24h)")
	cmd.Flags().BoolVar(&digests, "digests", false, "show the digests by which registries know them")
	cmd.Flags().BoolP("all", "a", false, "the same: there are no images between others")
	show.Must(cmd.RegisterFlagCompletionFunc("filter", show.Fixed("dangling=true", "dangling=false")))
	return cmd
}

// imageColumns are what a list tells of each name of an image.
func (a images) imageColumns(l *show.Lister[imageRow]) {
	id := func(r imageRow) string {
		if l.NoTrunc {
			return r.image.GetId()
		}
		return show.ShortID(r.image.GetId())
	}
	l.ID = id
	l.Columns = []show.Column[imageRow]{
		{Name: "Repository", Header: "REPOSITORY", Value: func(r imageRow) string { return r.repository }},
		{Name: "Tag", Header: "TAG", Value: func(r imageRow) string { return r.tag }},
		{Name: "Digest", Header: "DIGEST", Hidden: true, Value: func(r imageRow) string { return r.digest }},
		{Name: "ID", Header: "IMAGE ID", Value: id},
		{Name: "CreatedSince", Header: "CREATED",
			Value: func(r imageRow) string { return a.ago(r.image.GetCreated()) }},
		{Name: "Size", Header: "SIZE", Value: func(r imageRow) string { return view.Size(r.image.GetSize()) }},
		{Name: "CreatedAt", Header: "CREATED AT", Hidden: true,
			Value: func(r imageRow) string { return view.Time(r.image.GetCreated()).String() }},
		{Name: "Architecture", Header: "ARCHITECTURE", Hidden: true,
			Value: func(r imageRow) string { return r.image.GetArchitecture() }},
	}
}

// digestColumn is the place of the digest among the columns of images.
const digestColumn = 2

// imageRow is one name of an image.
type imageRow struct {
	image                   *apiv1.Image
	repository, tag, digest string
}

const nothing = "<none>"

// imageRows has a row for every name; one for each image when only IDs are wanted. With digests, a repository that has
// several of them has a row for each.
func imageRows(images []*apiv1.Image, once, digests bool) []imageRow {
	var out []imageRow
	for _, i := range images {
		if once {
			out = append(out, imageRow{image: i})
			continue
		}
		named := map[string]bool{}
		n := len(out)
		for _, ref := range i.GetReferences() {
			row := imageRow{i, ref, nothing, nothing}
			if at := strings.LastIndexByte(ref, ':'); at > strings.LastIndexByte(ref, '/') {
				row.repository, row.tag = ref[:at], ref[at+1:]
			}
			named[row.repository] = true
			rows := []imageRow{}
			for _, d := range digestsOf(i, row.repository) {
				row.digest = d
				rows = append(rows, row)
			}
			if len(rows) == 0 || !digests {
				rows = []imageRow{row}
			}
			out = append(out, rows...)
		}
		for _, ref := range i.GetDigests() { // pulled by digest alone
			if repository, digest, _ := strings.Cut(ref, "@"); !named[repository] && (digests || len(out) == n) {
				out = append(out, imageRow{i, repository, nothing, digest})
			}
		}
		if len(out) == n {
			out = append(out, imageRow{i, nothing, nothing, nothing})
		}
	}
	return out
}

// digestsOf are those by which a repository knows an image.
func digestsOf(i *apiv1.Image, repository string) (out []string) {
	for _, ref := range i.GetDigests() {
		if digest, ok := strings.CutPrefix(ref, repository+"@"); ok {
			out = append(out, digest)
		}
	}
	return out
}

func (a images) imageInspect() *cobra.Command {
	var i show.Inspector
	cmd := &cobra.Command{
		Use: "inspect [flags] IMAGE...", Short: "Show images in full", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.complete(imageNames, anyNumber),
		Example:           "  net image inspect -f '{{json .Config.Cmd}}' busybox",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			return a.show(&i, args, func(name string) (any, error) { return lookUp(ctx, c, "image", name) })
		}),
	}
	i.Flags(cmd)
	return cmd
}

func (a images) imageRemove(use string) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: use + " [flags] IMAGE...", Short: "Remove images", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.complete(imageNames, anyNumber),
		Example:           "  net " + map[string]string{"rm": "image rm", "rmi": "rmi"}[use] + " busybox:latest",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			return a.each(args, func(name string) (string, error) {
				resp, err := c.Images.Remove(ctx, &apiv1.RemoveImageRequest{Image: name, Force: force})
				var lines []string
				for _, u := range resp.GetUntagged() {
					lines = append(lines, "Untagged: "+u)
				}
				for _, d := range resp.GetDeleted() {
					lines = append(lines, "Deleted: "+d)
				}
				return strings.Join(lines, "\n"), about("image", name, err)
			})
		}),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also when it has several names, or stopped containers use it")
	return cmd
}

func (a images) imageTag(path string) *cobra.Command {
	return &cobra.Command{
		Use: "tag IMAGE NAME[:TAG]", Short: "Give an image a further name", Args: cobra.ExactArgs(2),
		ValidArgsFunction: a.complete(imageNames, 1),
		Example:           "  net " + path + " busybox:latest mine:1",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			_, err := c.Images.Tag(ctx, &apiv1.TagImageRequest{Source: args[0], Target: args[1]})
			return about("tag", args[0]+" as "+args[1], err)
		}),
	}
}
