package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/progress"
	"github.com/vethloom/vethloom/internal/cli/session"
	"github.com/vethloom/vethloom/internal/cli/show"
	"github.com/vethloom/vethloom/internal/cli/view"
)

func (a disk) systemCommand() *cobra.Command {
	return group("system", "What is on the disk", groupNode, a.systemUsage(), a.systemPrune(), a.systemCheck())
}

// usageRow is what one kind of things takes.
type usageRow struct {
	kind              string
	total, active     int
	size, reclaimable int64
}

func (r usageRow) share() string {
	if r.size == 0 {
		return view.Size(r.reclaimable)
	}
	return fmt.Sprintf("%s (%d%%)", view.Size(r.reclaimable), 100*r.reclaimable/r.size)
}

func usageRows(u *apiv1.DiskUsageResponse) []usageRow {
	im := usageRow{kind: "Images", total: len(u.GetImages()), size: u.GetImagesSize()}
	for _, i := range u.GetImages() {
		if len(i.GetContainers()) > 0 {
			im.active++
		} else {
			im.reclaimable += i.GetUnique()
		}
	}
	ct := usageRow{kind: "Containers", total: len(u.GetContainers())}
	for _, c := range u.GetContainers() {
		ct.size += c.GetSize()
		if running(c.GetStatus()) {
			ct.active++
		} else {
			ct.reclaimable += c.GetSize()
		}
	}
	vol := usageRow{kind: "Local Volumes", total: len(u.GetVolumes())}
	for _, v := range u.GetVolumes() {
		vol.size += v.GetSize()
		if len(v.GetVolume().GetContainers()) > 0 {
			vol.active++
		} else {
			vol.reclaimable += v.GetSize()
		}
	}
	rows := []usageRow{im, ct, vol}
	if u.GetLeftovers() > 0 {
		rows = append(rows, usageRow{kind: "Unfinished Pulls", size: u.GetLeftovers(), reclaimable: u.GetLeftovers()})
	}
	return rows
}

func running(status string) bool { return status == "running" || status == "paused" }

func (a disk) systemUsage() *cobra.Command {
	var verbose bool
	var format string
	cmd := &cobra.Command{
		Use: "df [flags]", Short: "Show what images, containers and volumes take on the disk", Args: cobra.NoArgs,
		Long: `Show what images, containers and volumes take on the disk. An image's size is that of its layers as
they came and unpacked; what several images have counts once in the sum. Reclaimable is what nobody uses.`,
		Example: "  net system df\n  net system df -v\n  net system df --format '{{.Type}} {{.Reclaimable}}'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if verbose && format != "" && format != "json" {
				return errors.New("--format: with --verbose use json, or leave it out")
			}
			return a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
				u, err := c.System.DiskUsage(ctx, &apiv1.DiskUsageRequest{})
				switch {
				case err != nil:
					return client.Explain(err)
				case verbose && format == "json":
					return show.JSON(a.Out, view.DiskUsage(u))
				case verbose:
					return a.usageTables(u)
				}
				return usageLister(format).Show(a.Out, usageRows(u))
			})(cmd, nil)
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "show each of them")
	cmd.Flags().StringVar(&format, "format", "", "table, json, or a Go template for each line")
	show.Must(cmd.RegisterFlagCompletionFunc("format", show.Fixed("table", "json")))
	return cmd
}

func usageLister(format string) *show.Lister[usageRow] {
	return &show.Lister[usageRow]{Format: format, Columns: []show.Column[usageRow]{
		{Name: "Type", Header: "TYPE", Value: func(r usageRow) string { return r.kind }},
		{Name: "TotalCount", Header: "TOTAL", Value: func(r usageRow) string { return fmt.Sprint(r.total) }},
		{Name: "Active", Header: "ACTIVE", Value: func(r usageRow) string { return fmt.Sprint(r.active) }},
		{Name: "Size", Header: "SIZE", Value: func(r usageRow) string { return view.Size(r.size) }},
		{Name: "Reclaimable", Header: "RECLAIMABLE", Value: usageRow.share},
	}}
}

// usageTables show each thing.
func (a disk) usageTables(u *apiv1.DiskUsageResponse) error {
	for _, table := range []func(*apiv1.DiskUsageResponse) error{a.imageUsage, a.containerUsage, a.volumeUsage} {
		if err := table(u); err != nil {
			return err
		}
	}
	if u.GetLeftovers() == 0 {
		return nil
	}
	_, err := show.Printf(a.Out, "\nUnfinished pulls: %s\n", view.Size(u.GetLeftovers()))
	return err
}

func (a disk) imageUsage(u *apiv1.DiskUsageResponse) error {
	type im = *apiv1.ImageUsage
	name := func(i im) string {
		if refs := i.GetImage().GetReferences(); len(refs) > 0 {
			return strings.Join(refs, ",")
		}
		return "<none>"
	}
	size := func(title string, f func(im) int64) show.Column[im] {
		return show.Column[im]{Name: title, Header: title, Value: func(i im) string { return view.Size(f(i)) }}
	}
	count := func(i im) string { return fmt.Sprint(len(i.GetContainers())) }
	show.Printf(a.Out, "Images:\n\n")
	return (&show.Lister[im]{Columns: []show.Column[im]{
		{Name: "NAME", Header: "NAME", Value: name},
		{Name: "ID", Header: "IMAGE ID", Value: func(i im) string { return show.ShortID(i.GetImage().GetId()) }},
		{Name: "CREATED", Header: "CREATED", Value: func(i im) string { return a.ago(i.GetImage().GetCreated()) }},
		size("SIZE", im.GetSize), size("SHARED", im.GetShared), size("UNIQUE", im.GetUnique),
		{Name: "CONTAINERS", Header: "CONTAINERS", Value: count},
	}}).Show(a.Out, u.GetImages())
}

func (a disk) containerUsage(u *apiv1.DiskUsageResponse) error {
	type ct = *apiv1.ContainerUsage
	show.Printf(a.Out, "\nContainers:\n\n")
	return (&show.Lister[ct]{Columns: []show.Column[ct]{
		{Name: "ID", Header: "CONTAINER ID", Value: func(c ct) string { return show.ShortID(c.GetId()) }},
		{Name: "NAME", Header: "NAME", Value: ct.GetName},
		{Name: "IMAGE", Header: "IMAGE", Value: ct.GetImage},
		{Name: "STATUS", Header: "STATUS", Value: ct.GetStatus},
		{Name: "SIZE", Header: "SIZE", Value: func(c ct) string { return view.Size(c.GetSize()) }},
	}}).Show(a.Out, u.GetContainers())
}

func (a disk) volumeUsage(u *apiv1.DiskUsageResponse) error {
	type vol = *apiv1.VolumeUsage
	show.Printf(a.Out, "\nLocal volumes:\n\n")
	return (&show.Lister[vol]{Columns: []show.Column[vol]{
		{Name: "NAME", Header: "VOLUME NAME", Value: func(v vol) string { return v.GetVolume().GetName() }},
		{Name: "CONTAINERS", Header: "CONTAINERS",
			Value: func(v vol) string { return fmt.Sprint(len(v.GetVolume().GetContainers())) }},
		{Name: "SIZE", Header: "SIZE", Value: func(v vol) string { return view.Size(v.GetSize()) }},
	}}).Show(a.Out, u.GetVolumes())
}

func (a disk) systemPrune() *cobra.Command {
	var all, volumes, force bool
	cmd := &cobra.Command{
		Use: "prune [flags]", Short: "Remove what nobody uses", Args: cobra.NoArgs,
		Long: `Remove containers that do not run, networks that no container is on, images without a name that no
container was made from, and what is left of pulls that broke off. What goes is shown first.`,
		Example: "  net system prune\n  net system prune -a --volumes -f",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
			u, err := c.System.DiskUsage(ctx, &apiv1.DiskUsageRequest{})
			if err != nil {
				return client.Explain(err)
			}
			p := pruning{App: a.App, client: c, usage: u, all: all, volumes: volumes}
			if err := a.confirm(force, p.plan()); err != nil {
				return err
			}
			return p.run(ctx)
		}),
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also images with a name that no container was made from")
	cmd.Flags().BoolVar(&volumes, "volumes", false, "also volumes without a name of their own that no container uses")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return cmd
}

// pruning is one removal of all that nobody uses. It is put together here: each step is a call that can fail on its
// own.
type pruning struct {
	*App
	client       *client.Client
	usage        *apiv1.DiskUsageResponse
	all, volumes bool
}

// plan tells what goes.
func (p *pruning) plan() string {
	var b strings.Builder
	b.WriteString("This removes:\n")
	say := func(what string, names []string) {
		fmt.Fprintf(&b, "  - %s: %s\n", what, listed(names))
	}
	say("containers that do not run", pick(p.stopped(), (*apiv1.ContainerUsage).GetName))
	b.WriteString("  - all networks that no container is on\n")
	if p.volumes {
		b.WriteString("  - all volumes without a name of their own that no container uses, with their data\n")
	}
	say("images", pick(p.unused(), func(i *apiv1.ImageUsage) string {
		if refs := i.GetImage().GetReferences(); len(refs) > 0 {
			return refs[0]
		}
		return show.ShortID(i.GetImage().GetId())
	}))
	fmt.Fprintf(&b, "  - what is left of pulls that broke off: %s\n", view.Size(p.usage.GetLeftovers()))
	return b.String()
}

// listedNames is how many names a plan tells.
const listedNames = 8

func listed(names []string) string {
	switch n := len(names); {
	case n == 0:
		return "none"
	case n > listedNames:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:listedNames], ", "), n-listedNames)
	}
	return strings.Join(names, ", ")
}

func (p *pruning) stopped() []*apiv1.ContainerUsage {
	return slices.DeleteFunc(slices.Clone(p.usage.GetContainers()),
		func(c *apiv1.ContainerUsage) bool { return running(c.GetStatus()) })
}

// unused are the images that go once the containers are gone.
func (p *pruning) unused() []*apiv1.ImageUsage {
	gone := pick(p.stopped(), (*apiv1.ContainerUsage).GetName)
	return slices.DeleteFunc(slices.Clone(p.usage.GetImages()), func(i *apiv1.ImageUsage) bool {
		used := slices.ContainsFunc(i.GetContainers(), func(c string) bool { return !slices.Contains(gone, c) })
		return used || !p.all && len(i.GetImage().GetReferences()) > 0
	})
}

// run removes all of it. What could not be removed is told, and the rest goes all the same.
func (p *pruning) run(ctx context.Context) error {
	var reclaimed int64
	var failed []error
	var names []string
	for _, c := range p.stopped() {
		_, err := p.client.Containers.Remove(ctx, &apiv1.RemoveContainerRequest{Container: c.GetId()})
		if err != nil { // it was started meanwhile, perhaps
			failed = append(failed, about("container", c.GetName(), err))
			continue
		}
		names, reclaimed = append(names, c.GetName()), reclaimed+c.GetSize()
	}
	p.tell("Deleted containers", names)
	nets, err := p.client.Networks.Prune(ctx, &apiv1.PruneNetworksRequest{})
	failed = append(failed, client.Explain(err))
	p.tell("Deleted networks", nets.GetNames())
	if p.volumes {
		vols, err := p.client.Volumes.Prune(ctx, &apiv1.PruneVolumesRequest{})
		failed = append(failed, client.Explain(err))
		for _, v := range p.usage.GetVolumes() {
			if slices.Contains(vols.GetNames(), v.GetVolume().GetName()) {
				reclaimed += v.GetSize()
			}
		}
		p.tell("Deleted volumes", vols.GetNames())
	}
	im, err := p.client.Images.Prune(ctx, &apiv1.PruneImagesRequest{All: p.all})
	failed = append(failed, client.Explain(err))
	p.tell("Deleted images", slices.Concat(im.GetUntagged(), im.GetDeleted()))
	show.Printf(p.Out, "Total reclaimed space: %s\n", view.Size(reclaimed+im.GetReclaimed()))
	return errors.Join(failed...)
}

func (p *pruning) tell(title string, names []string) {
	if len(names) > 0 {
		show.Printf(p.Out, "%s:\n%s\n\n", title, strings.Join(names, "\n"))
	}
}

// pruneFilterUsage is what prunes say of their --filter.
const pruneFilterUsage = "until=TIME or how long ago (24h), label=KEY[=VALUE], label!=KEY[=VALUE]"

func (a images) imagePrune() *cobra.Command {
	r := &apiv1.PruneImagesRequest{}
	var force bool
	cmd := &cobra.Command{
		Use: "prune [flags]", Short: "Remove images that nobody needs", Args: cobra.NoArgs,
		Long: `Remove the images without a name that no container was made from, and what is left of pulls that
broke off. With --all those with a name go too.`,
		Example: "  net image prune -f\n  net image prune -a --filter until=240h",
		RunE: func(cmd *cobra.Command, _ []string) error {
			what := "This removes the images without a name that no container was made from."
			if r.GetAll() {
				what = "This removes all images that no container was made from."
			}
			if err := a.confirm(force, what); err != nil {
				return err
			}
			return a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
				resp, err := c.Images.Prune(ctx, r)
				if err != nil {
					return client.Explain(err)
				}
				for _, u := range resp.GetUntagged() {
					show.Println(a.Out, "Untagged: "+u)
				}
				for _, d := range resp.GetDeleted() {
					show.Println(a.Out, "Deleted: "+d)
				}
				return show.Println(a.Out, "Total reclaimed space: "+view.Size(resp.GetReclaimed()))
			})(cmd, nil)
		},
	}
	cmd.Flags().BoolVarP(&r.All, "all", "a", false, "also those with a name")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	cmd.Flags().StringArrayVar(&r.Filters, "filter", nil, pruneFilterUsage)
	return cmd
}

func (a disk) systemCheck() *cobra.Command {
	var repair bool
	cmd := &cobra.Command{
		Use: "check [flags]", Short: "Compare all that is kept of images with its digests", Args: cobra.NoArgs,
		Long: `Read all that is kept of images and compare it with its digests. With --repair, layers are unpacked
anew from what was pulled; what is damaged itself is to be pulled again. It ends with 1 when something stays wrong.`,
		Example: "  net system check\n  net system check --repair",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			stream, err := c.Images.Check(ctx, &apiv1.CheckImagesRequest{Repair: repair})
			if err != nil {
				return client.Explain(err)
			}
			checked, found, err := a.checked(stream.Recv)
			if err != nil {
				return client.Explain(err)
			}
			wrong := 0
			for _, d := range found {
				if !d.GetRepaired() {
					wrong++
				}
				a.tellDamage(d)
			}
			show.Printf(a.Out, "%d images, %d blobs and %d unpacked layers checked, %s read: %d damaged, %d repaired\n",
				checked.GetImages(), checked.GetBlobs(), checked.GetLayers(), view.Size(checked.GetBytes()), len(found),
				len(found)-wrong)
			if wrong > 0 {
				return &session.ExitError{Code: exitFailure}
			}
			return nil
		}),
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "put right what can be")
	return cmd
}

// checked reads how a check goes on, and what it finds.
func (a disk) checked(recv func() (*apiv1.CheckImagesResponse, error)) (*apiv1.CheckedImages, []*apiv1.ImageDamage,
	error) {
	o := transferFlags{progress: progress.Auto}
	if _, ok := session.Terminal(a.Err); !ok {
		o.quiet = true
	}
	d := a.display(o)
	defer d.Close()
	var found []*apiv1.ImageDamage
	for {
		m, err := recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil, nil, unfinished(err)
		case err != nil:
			return nil, nil, err
		case m.GetChecked() != nil:
			return m.GetChecked(), found, nil
		case m.GetDamage() != nil:
			found = append(found, m.GetDamage())
		case m.GetProgress() != nil:
			d.Add(m.GetProgress())
		}
	}
}

func (a disk) tellDamage(d *apiv1.ImageDamage) {
	state := "damaged"
	if d.GetRepaired() {
		state = "repaired"
	}
	show.Printf(a.Out, "%s: %s: %s", state, show.Plain(d.GetObject()), show.Plain(d.GetProblem()))
	if len(d.GetImages()) > 0 {
		show.Printf(a.Out, " (of %s)", show.Plain(listed(d.GetImages())))
	}
	if d.GetRemedy() != "" {
		show.Printf(a.Out, "\n  -> %s", show.Plain(d.GetRemedy()))
	}
	show.Printf(a.Out, "\n")
}
