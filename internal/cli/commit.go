package cli

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/show"
	"github.com/vethloom/vethloom/internal/cli/view"
)

// fileCommands are what there is to do with a container's filesystem. Docker's diff is changes here: diff is what
// differs of networks.
func (a containers) fileCommands(path string) []*cobra.Command {
	return []*cobra.Command{a.containerCommit(path + "commit"), a.containerChanges(path + "changes"),
		a.containerExport(path + "export")}
}

func (a containers) containerCommit(path string) *cobra.Command {
	r := &apiv1.CommitContainerRequest{}
	cmd := &cobra.Command{
		Use: "commit [flags] CONTAINER [NAME[:TAG]]", Short: "Make an image of a container's filesystem",
		Args: cobra.RangeArgs(1, 2), ValidArgsFunction: a.completeInOrder(containerNames, imageNames),
		Long: `Make an image of what a container has changed, on its image. What is mounted into it is not part
of it. The container's processes stand still meanwhile, unless --pause=false.`,
		Example: "  net " + path + " -m 'with tools' -c 'CMD [\"sh\"]' box mine:2",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			r.Container, r.Reference = args[0], strings.Join(args[1:], "")
			resp, err := c.Containers.Commit(ctx, r)
			if err != nil {
				return about("commit", args[0], err)
			}
			return show.Println(a.Out, resp.GetId())
		}),
	}
	f := cmd.Flags()
	f.StringVarP(&r.Author, "author", "a", "", "who made the image, such as 'Ada <ada@example.org>'")
	f.StringVarP(&r.Message, "message", "m", "", "comment in the image's history")
	f.StringArrayVarP(&r.Changes, "change", "c", nil, changeUsage)
	f.BoolVarP(&r.Pause, "pause", "p", true, "no process of the container runs meanwhile")
	return cmd
}

// changeUsage is what import and commit say of their --change.
const changeUsage = "instruction for the image's configuration: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, " +
	"USER, VOLUME, WORKDIR"

func (a containers) containerChanges(path string) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "changes [flags] CONTAINER", Short: "List the files that a container has changed",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.complete(containerNames, 1),
		Long: "List the files of its image that a container has added (A), changed (C) or deleted (D), as " +
			"'docker diff' does.",
		Example: "  net " + path + " web\n  net " + path + " --format json web",
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "" && format != "json" {
				return errors.New("--format: use json, or leave it out")
			}
			return a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
				return about("changes of", args[0], a.changes(ctx, c, args[0], format == "json"))
			})(cmd, args)
		},
	}
	cmd.Flags().StringVar(&format, "format", "", "json: an object a line")
	show.Must(cmd.RegisterFlagCompletionFunc("format", show.Fixed("json")))
	return cmd
}

func (a containers) changes(ctx context.Context, c *client.Client, name string, asJSON bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Containers.Changes(ctx, &apiv1.ContainerChangesRequest{Container: name})
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, f := range m.GetChanges() {
			if asJSON {
				err = show.JSON(a.Out, map[string]string{"Kind": f.GetKind(), "Path": f.GetPath()})
			} else {
				// A name with a line's end in it is not two files.
				letter := strings.ToUpper(f.GetKind()[:min(1, len(f.GetKind()))])
				err = show.Println(a.Out, show.Plain(letter+" "+f.GetPath()))
			}
			if err != nil {
				return err
			}
		}
	}
}

func (a images) imageHistory(path string) *cobra.Command {
	l := &show.Lister[*apiv1.HistoryStep]{}
	a.historyColumns(l)
	cmd := &cobra.Command{
		Use: "history [flags] IMAGE", Short: "Show how an image was made", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.complete(imageNames, 1),
		Example: "  net " + path + " busybox\n  net " + path +
			" --no-trunc --format '{{.CreatedBy}}' busybox",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			resp, err := c.Images.History(ctx, &apiv1.ImageHistoryRequest{Image: args[0]})
			if err != nil {
				return about("image", args[0], err)
			}
			return l.Show(a.Out, resp.GetSteps())
		}),
	}
	l.Flags(cmd)
	return cmd
}

// historyColumns are what a history tells of each step.
func (a images) historyColumns(l *show.Lister[*apiv1.HistoryStep]) {
	none := func(text string) string {
		if text == "" {
			return "<missing>"
		}
		return text
	}
	id := func(s *apiv1.HistoryStep) string {
		if l.NoTrunc {
			return none(s.GetImage())
		}
		return none(show.ShortID(s.GetImage()))
	}
	l.ID = id
	l.Columns = []show.Column[*apiv1.HistoryStep]{
		{Name: "ID", Header: "IMAGE", Value: id},
		{Name: "CreatedSince", Header: "CREATED",
			Value: func(s *apiv1.HistoryStep) string { return a.ago(s.GetCreated()) }},
		{Name: "CreatedBy", Header: "CREATED BY", Value: func(s *apiv1.HistoryStep) string {
			by := strings.Join(strings.Fields(s.GetCreatedBy()), " ")
			if l.NoTrunc || l.Format == "json" {
				return by
			}
			return view.Cut(by, createdByColumns)
		}},
		{Name: "Size", Header: "SIZE", Value: func(s *apiv1.HistoryStep) string { return view.Size(s.GetSize()) }},
		{Name: "Comment", Header: "COMMENT", Value: (*apiv1.HistoryStep).GetComment},
		{Name: "CreatedAt", Header: "CREATED AT", Hidden: true,
			Value: func(s *apiv1.HistoryStep) string { return view.Time(s.GetCreated()).String() }},
		{Name: "Layer", Header: "LAYER", Hidden: true, Value: (*apiv1.HistoryStep).GetLayer},
		{Name: "Tags", Header: "TAGS", Hidden: true,
			Value: func(s *apiv1.HistoryStep) string { return strings.Join(s.GetReferences(), ",") }},
	}
}

// createdByColumns is how much a table shows of what made a layer.
const createdByColumns = 45
