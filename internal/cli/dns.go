package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/show"
	"github.com/vethloom/vethloom/internal/cli/view"
)

// lookups has the commands about what containers look up.
type lookups struct{ *App }

func (a lookups) dnsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "dns", Short: "Look at what containers look up", GroupID: groupThings, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.lookup(), a.log())
	return cmd
}

// answerView is what would be answered, as JSON and templates have it.
type answerView struct {
	Type    string
	Rcode   string
	Records []string
	Steps   []string
}

func (a lookups) lookup() *cobra.Command {
	var typ, format string
	cmd := &cobra.Command{
		Use: "lookup [flags] CONTAINER|NETWORK NAME", Short: "Show what would be answered, and why",
		Long: "Lookup asks as the container would, or as somebody on the network would ask at its gateway. The " +
			"answer comes from the resolver itself, servers elsewhere included.",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.complete(containerNames, 1),
		Example: "  net dns lookup web db\n  net dns lookup front _80._tcp.web --type SRV\n" +
			"  net dns lookup web 10.7.0.2",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			r, err := c.Names.Lookup(ctx, &apiv1.LookupNameRequest{Asker: args[0], Name: args[1], Type: typ})
			if err != nil {
				return client.Explain(err)
			}
			return a.showAnswers(r.GetAnswers(), format)
		}),
	}
	cmd.Flags().StringVarP(&typ, "type", "t", "", "type of the records (default A and AAAA, or PTR for an address)")
	cmd.Flags().StringVar(&format, "format", "", "json, or a Go template for each answer")
	show.Must(cmd.RegisterFlagCompletionFunc("type", show.Fixed("A", "AAAA", "PTR", "SRV", "TXT", "MX", "NS")))
	show.Must(cmd.RegisterFlagCompletionFunc("format", show.Fixed("json")))
	return cmd
}

func (a lookups) showAnswers(answers []*apiv1.NameAnswer, format string) error {
	if format != "" {
		return showEach(a.App, format, answers, func(n *apiv1.NameAnswer) any {
			return answerView{n.GetType(), n.GetRcode(), n.GetRecords(), n.GetSteps()}
		})
	}
	for _, n := range answers {
		show.Printf(a.Out, "%s: %s\n", n.GetType(), n.GetRcode())
		for _, r := range n.GetRecords() {
			show.Printf(a.Out, "  %s\n", strings.Join(strings.Fields(r), " "))
		}
		for _, s := range n.GetSteps() {
			show.Printf(a.Out, "  because: %s\n", s)
		}
	}
	return nil
}

// showEach writes things by a template, or as JSON, a line each.
func showEach[T any](a *App, format string, things []T, viewOf func(T) any) error {
	write, err := eachWriter(a, format, viewOf)
	if err != nil {
		return err
	}
	for _, t := range things {
		if err := write(t); err != nil {
			return err
		}
	}
	return nil
}

// eachWriter writes one thing after the other by a template, or as JSON.
func eachWriter[T any](a *App, format string, viewOf func(T) any) (func(T) error, error) {
	if format == "json" {
		return func(t T) error {
			b, err := json.Marshal(viewOf(t))
			if err != nil {
				return err
			}
			return show.Println(a.Out, string(b))
		}, nil
	}
	tmpl, err := show.Template(format)
	if err != nil {
		return nil, err
	}
	return func(t T) error {
		var b strings.Builder
		if err := tmpl.Execute(&b, viewOf(t)); err != nil {
			return fmt.Errorf("--format: %w", err)
		}
		return show.Println(a.Out, b.String())
	}, nil
}

// queryView is a question that was answered.
type queryView struct {
	Time    view.Moment
	Asker   string
	Client  string
	Name    string
	Type    string
	Rcode   string
	Records []string
	Source  string
	Took    string
	Lost    int32 `json:",omitempty"`
}

func (a lookups) log() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "log [flags] [CONTAINER|NETWORK...]", Short: "Show questions and answers, as they happen",
		ValidArgsFunction: a.complete(containerNames, 1),
		Example:           "  net dns log web\n  net dns log front --format json",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			write := a.plainQuery
			if format != "" {
				var err error
				if write, err = eachWriter(a.App, format, queryOf); err != nil {
					return err
				}
			}
			stream, err := c.Names.Watch(ctx, &apiv1.WatchNamesRequest{Askers: args})
			if err != nil {
				return client.Explain(err)
			}
			for {
				q, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return client.Explain(err)
				}
				if err := write(q); err != nil {
					return err
				}
			}
		}),
	}
	cmd.Flags().StringVar(&format, "format", "", "json, or a Go template for each question")
	show.Must(cmd.RegisterFlagCompletionFunc("format", show.Fixed("json")))
	return cmd
}

func queryOf(q *apiv1.NameQuery) any {
	return queryView{view.Time(q.GetTime()), q.GetAsker(), q.GetClient(), q.GetName(), q.GetType(), q.GetRcode(),
		q.GetRecords(), q.GetSource(), q.GetTook().AsDuration().String(), q.GetLost()}
}

func (a lookups) plainQuery(q *apiv1.NameQuery) error {
	if n := q.GetLost(); n > 0 {
		show.Printf(a.Err, "net: %d questions came too fast to be shown\n", n)
	}
	answer := q.GetRcode()
	if len(q.GetRecords()) > 0 {
		values := make([]string, 0, len(q.GetRecords()))
		for _, r := range q.GetRecords() {
			values = append(values, r[strings.LastIndexAny(r, " \t")+1:])
		}
		answer = strings.Join(values, ", ")
	}
	_, err := show.Printf(a.Out, "%s %s %s %s -> %s (%s, %s)\n", q.GetTime().AsTime().Format(time.TimeOnly),
		q.GetAsker(), q.GetName(), q.GetType(), answer, q.GetSource(),
		q.GetTook().AsDuration().Round(10*time.Microsecond))
	return err
}
