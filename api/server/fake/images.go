package fake

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/engine/registry"
)

// ImportImage implements [server.Images]. It takes anything that begins with "tar".
func (d *imagePart) ImportImage(_ context.Context, r io.Reader, o image.ImportOptions) (image.Image, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return image.Image{}, err
	}
	if err := d.enter("ImportImage"); err != nil {
		return image.Image{}, err
	}
	defer d.mu.Unlock()
	if !strings.HasPrefix(string(data), "tar") {
		return image.Image{}, &cnm.Error{Kind: cnm.ErrInvalid, Reason: "this is not a tar archive",
			Remedy: "make one with 'tar -C DIR -c .'"}
	}
	i := image.Image{ID: "sha256:" + d.id(), Created: Epoch, Size: int64(len(data)), OS: "linux", Architecture: "amd64",
		Author: o.Author}
	if _, architecture, ok := strings.Cut(o.Platform, "/"); ok {
		i.Architecture = architecture
	}
	if o.Reference != "" {
		i.References = []string{o.Reference}
	}
	d.images = append(d.images, i)
	return i, nil
}

// LoadImages implements [server.Images]. Each line names an image.
func (d *imagePart) LoadImages(_ context.Context, r io.Reader) ([]image.Image, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	if err := d.enter("LoadImages"); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	var out []image.Image
	for name := range strings.FieldsSeq(string(data)) {
		i := image.Image{ID: "sha256:" + d.id(), References: []string{name}, Created: Epoch, OS: "linux",
			Architecture: "amd64"}
		if name == "-" {
			i.References = nil
		}
		out = append(out, i)
	}
	d.images = append(d.images, out...)
	return out, nil
}

// ListImages implements [server.Images].
func (d *imagePart) ListImages(context.Context) ([]image.Image, error) {
	if err := d.enter("ListImages"); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	return slices.Clone(d.images), nil
}

func (d *core) image(ref string) (int, error) {
	for i, img := range d.images {
		hash, digits := strings.TrimPrefix(img.ID, "sha256:"), strings.TrimPrefix(ref, "sha256:")
		if slices.Contains(img.References, ref) || slices.Contains(img.References, ref+":latest") ||
			slices.Contains(img.Digests, ref) || digits != "" && strings.HasPrefix(hash, digits) {
			return i, nil
		}
	}
	return 0, missing("image", ref)
}

// InspectImage implements [server.Images].
func (d *imagePart) InspectImage(_ context.Context, ref string) (image.Image, error) {
	if err := d.enter("InspectImage"); err != nil {
		return image.Image{}, err
	}
	defer d.mu.Unlock()
	i, err := d.image(ref)
	if err != nil {
		return image.Image{}, err
	}
	return d.images[i], nil
}

// RemoveImage implements [server.Images].
func (d *imagePart) RemoveImage(_ context.Context, ref string, force bool) (untagged, deleted []string, err error) {
	if err := d.enter("RemoveImage"); err != nil {
		return nil, nil, err
	}
	defer d.mu.Unlock()
	i, err := d.image(ref)
	if err != nil {
		return nil, nil, err
	}
	img := d.images[i]
	for _, c := range d.containers {
		if c.view.ImageID == img.ID && !force {
			return nil, nil, &cnm.Error{Kind: cnm.ErrInUse, Field: "image", Value: ref, Reason: "container " +
				c.view.Spec.Name + " needs it"}
		}
	}
	d.images = slices.Delete(d.images, i, i+1)
	return img.References, []string{img.ID}, nil
}

// TagImage implements [server.Images].
func (d *imagePart) TagImage(_ context.Context, src, dst string) error {
	if err := d.enter("TagImage"); err != nil {
		return err
	}
	defer d.mu.Unlock()
	i, err := d.image(src)
	if err != nil {
		return err
	}
	d.images[i].References = append(slices.Clone(d.images[i].References), dst)
	return nil
}

// ImageHistory implements [server.ImageViews].
func (d *imagePart) ImageHistory(_ context.Context, ref string) ([]image.History, error) {
	if err := d.enter("ImageHistory"); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	i, err := d.image(ref)
	if err != nil {
		return nil, err
	}
	img := d.images[i]
	return []image.History{
		{History: v1.History{Created: v1.Time{Time: Epoch}, CreatedBy: `CMD ["sh"]`, EmptyLayer: true, Comment: "why"},
			Image: img.ID, References: img.References},
		{History: v1.History{Created: v1.Time{Time: Epoch}, CreatedBy: "/bin/sh -c #(nop) ADD file:" +
			strings.Repeat("c0", 32) + " in /"}, Size: img.Size, Layer: "sha256:" + strings.Repeat("1a", 32)},
	}, nil
}

// SaveImages implements [server.ImageChanges]. It writes what LoadImages reads.
func (d *imagePart) SaveImages(_ context.Context, w io.Writer, refs []string, o image.SaveOptions) error {
	if err := d.enter("SaveImages"); err != nil {
		return err
	}
	defer d.mu.Unlock()
	if !slices.Contains([]string{"", "oci-archive", "docker-archive"}, o.Format) {
		return &cnm.Error{Kind: cnm.ErrInvalid, Field: "format", Value: o.Format, Reason: "is none",
			Remedy: "use oci-archive or docker-archive"}
	}
	for _, ref := range refs {
		i, err := d.image(ref)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(w, strings.Join(d.images[i].References, "\n")); err != nil {
			return err
		}
	}
	return nil
}

// PruneImages implements [server.ImageChanges].
func (d *imagePart) PruneImages(_ context.Context, all bool, due func(image.Image) bool) (server.PrunedImages,
	error) {
	var p server.PrunedImages
	if err := d.enter("PruneImages"); err != nil {
		return p, err
	}
	defer d.mu.Unlock()
	d.images = slices.DeleteFunc(d.images, func(i image.Image) bool {
		if !all && len(i.References) > 0 || !due(i) || len(d.imageUsers(i.ID)) > 0 {
			return false
		}
		p.Untagged = append(p.Untagged, i.References...)
		p.Deleted = append(p.Deleted, i.ID)
		p.Reclaimed += i.Size
		return true
	})
	return p, nil
}

func (d *core) imageUsers(id string) (names []string) {
	for _, c := range d.containers {
		if c.view.ImageID == id {
			names = append(names, c.view.Spec.Name)
		}
	}
	return names
}

// AddDamage makes CheckImages find something more.
func (d *core) AddDamage(found image.Damage) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.damages = append(d.damages, found)
}

// CheckImages implements [server.ImageChanges]. It repairs what needs no remedy.
func (d *imagePart) CheckImages(_ context.Context, repair bool, report func(image.Progress),
	found func(image.Damage) error) (image.Checked, error) {
	if err := d.enter("CheckImages"); err != nil {
		return image.Checked{}, err
	}
	defer d.mu.Unlock()
	report(image.Progress{Current: 500, Total: 1000})
	for _, damage := range d.damages {
		damage.Repaired = repair && damage.Remedy == ""
		if !damage.Repaired && damage.Remedy == "" {
			damage.Remedy = "give --repair"
		}
		if err := found(damage); err != nil {
			return image.Checked{}, err
		}
	}
	return image.Checked{Images: len(d.images), Blobs: 3 * len(d.images), Layers: len(d.images),
		Bytes: 1000}, nil
}

// Remote is an image of a registry in memory.
type Remote struct {
	Layers   int
	Size     int64  // bytes of each of them
	Password string // that its registry asks for; "": none
	Text     string // what its registry says besides
}

// SetRemote makes a registry have an image.
func (d *core) SetRemote(name string, r Remote) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.remotes[name] = r
}

// SetPace has a function called between the reports of a transfer.
func (d *core) SetPace(f func(context.Context)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pace = f
}

// Seen are the credentials that came with the latest request to a registry.
func (d *core) Seen() []registry.Credential {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.seen)
}

// hostOf is the registry of a reference.
func hostOf(ref string) string {
	if host, _, ok := strings.Cut(ref, "/"); (ok || ref != "") && strings.ContainsAny(host, ".") {
		return host
	}
	return "docker.io"
}

// RegistryHosts implements [server.ImageTransfers]. Docker Hub has a mirror, hub.test, that pulls ask first.
func (d *imagePart) RegistryHosts(_ context.Context, ref string, push bool) ([]server.RegistryHost, error) {
	if err := d.enter("RegistryHosts"); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	host := server.RegistryHost{Host: hostOf(ref), PlainHTTP: strings.HasPrefix(ref, "plain.")}
	if host.Host == "docker.io" && ref != "" && !push {
		return []server.RegistryHost{{Host: "hub.test", Mirror: true}, host}, nil
	}
	return []server.RegistryHost{host}, nil
}

func (d *core) admit(host, password string, given []registry.Credential) error {
	d.seen = given
	if password == "" || slices.ContainsFunc(given, func(c registry.Credential) bool {
		return c.Host == host && (c.Password == password || c.IdentityToken == password || c.RegistryToken == password)
	}) {
		return nil
	}
	return &cnm.Error{Kind: cnm.ErrForbidden, Field: "registry", Value: host, Reason: "it wants a login",
		Remedy: "give one with 'net login " + host + "'"}
}

// LoginRegistry implements [server.ImageTransfers]. A registry's password is "secret".
func (d *imagePart) LoginRegistry(_ context.Context, c registry.Credential) error {
	if err := d.enter("LoginRegistry"); err != nil {
		return err
	}
	defer d.mu.Unlock()
	d.seen = []registry.Credential{c}
	if c.Password == "secret" {
		return nil
	}
	return &cnm.Error{Kind: cnm.ErrForbidden, Field: "registry", Value: c.Host,
		Reason: "it refuses the user " + c.Username, Remedy: "check the name and the password"}
}

// PullImage implements [server.ImageTransfers].
func (d *imagePart) PullImage(ctx context.Context, r server.PullRequest, report func(image.Progress)) (
	server.PulledImage, error) {
	if err := d.enter("PullImage"); err != nil {
		return server.PulledImage{}, err
	}
	name := r.Reference
	if !strings.Contains(name[strings.LastIndexByte(name, '/')+1:], ":") {
		name += ":latest"
	}
	remote, ok := d.remotes[name]
	err := d.admit(hostOf(name), remote.Password, r.Credentials)
	have, _ := d.image(name)
	there := slices.ContainsFunc(d.images, func(i image.Image) bool { return slices.Contains(i.References, name) })
	pace := d.pace
	d.mu.Unlock()
	switch {
	case err != nil:
		return server.PulledImage{}, err
	case !ok:
		return server.PulledImage{}, &cnm.Error{Kind: cnm.ErrNotFound, Field: "image", Value: name,
			Reason: "its registry has none", Remedy: "check the name"}
	}
	digest := "sha256:" + strings.Repeat("d1", 32)
	if err := remote.transfer(ctx, report, pace, image.ActionDownloading, image.ActionPulled); err != nil {
		return server.PulledImage{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if there && d.images[have].Digests != nil {
		return server.PulledImage{Image: d.images[have], Reference: name, Digest: digest}, nil
	}
	for i := range d.images {
		d.images[i].References = slices.DeleteFunc(slices.Clone(d.images[i].References),
			func(ref string) bool { return ref == name })
	}
	i := image.Image{ID: "sha256:" + d.id(), References: []string{name}, Created: Epoch, OS: "linux",
		Architecture: "amd64", Size: int64(remote.Layers) * remote.Size,
		Digests: []string{name[:strings.LastIndexByte(name, ':')] + "@" + digest}}
	if _, architecture, ok := strings.Cut(r.Platform, "/"); ok {
		i.Architecture, i.Variant, _ = strings.Cut(architecture, "/")
	}
	d.images = append(d.images, i)
	return server.PulledImage{Image: i, Reference: name, Digest: digest, Newer: true}, nil
}

// transfer reports the layers one by one; the first one is there already when there are several.
func (r Remote) transfer(ctx context.Context, report func(image.Progress), pace func(context.Context),
	during, after string) error {
	say := func(i int, action string, current int64, text string) error {
		part := fmt.Sprintf("sha256:%012x%052x", i+0xabc0, i)
		report(image.Progress{Part: part, Action: action, Current: current, Total: r.Size, Text: text})
		if pace != nil {
			pace(ctx)
		}
		return ctx.Err()
	}
	for i := range r.Layers {
		if i == 0 && r.Layers > 1 {
			if err := say(i, image.ActionExists, r.Size, ""); err != nil {
				return err
			}
			continue
		}
		for _, step := range []struct {
			action  string
			current int64
			text    string
		}{{image.ActionWaiting, 0, ""}, {during, r.Size / 2, ""}, {image.ActionRetrying, r.Size / 2, r.Text},
			{during, r.Size, ""}, {image.ActionUnpacking, r.Size, ""}, {after, r.Size, ""}} {
			skip := step.action == image.ActionRetrying && r.Text == "" ||
				step.action == image.ActionUnpacking && after != image.ActionPulled
			if skip {
				continue
			}
			if err := say(i, step.action, step.current, step.text); err != nil {
				return err
			}
		}
	}
	return nil
}

// PushImage implements [server.ImageTransfers]. The registry has what was pushed.
func (d *imagePart) PushImage(ctx context.Context, r server.PushRequest, report func(image.Progress)) (
	server.PushedImage, error) {
	if err := d.enter("PushImage"); err != nil {
		return server.PushedImage{}, err
	}
	i, err := d.image(r.Reference)
	if err == nil {
		err = d.admit(hostOf(r.Reference), "secret", r.Credentials)
	}
	pace := d.pace
	if err != nil {
		d.mu.Unlock()
		return server.PushedImage{}, err
	}
	remote := Remote{Layers: 2, Size: d.images[i].Size}
	d.mu.Unlock()
	if err := remote.transfer(ctx, report, pace, image.ActionPushing, image.ActionPushed); err != nil {
		return server.PushedImage{}, err
	}
	d.SetRemote(r.Reference, remote)
	return server.PushedImage{Reference: r.Reference, Digest: "sha256:" + strings.Repeat("d2", 32), Size: 428}, nil
}

// Commit implements [server.ContainerFiles].
func (d *containerPart) Commit(_ context.Context, r server.CommitRequest) (string, error) {
	if err := d.enter("Commit"); err != nil {
		return "", err
	}
	defer d.mu.Unlock()
	c, err := d.container(r.Container)
	if err != nil {
		return "", err
	}
	d.committed = r
	if r.Pause && c.view.Status == "running" {
		d.paused = append(d.paused, c.view.Spec.Name)
	}
	i := image.Image{ID: "sha256:" + d.id(), Created: Epoch, OS: "linux", Architecture: "amd64", Author: r.Author}
	if r.Reference != "" {
		i.References = []string{r.Reference}
	}
	i.Raw = fmt.Appendf(nil, `{"author":%q,"comment":%q}`, r.Author, r.Message)
	d.images = append(d.images, i)
	return i.ID, nil
}

// Committed is the latest request for a commit.
func (d *core) Committed() server.CommitRequest {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.committed
}

// Paused are the containers that commits have paused.
func (d *core) Paused() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.paused)
}

// SetChanges sets what every container has changed.
func (d *core) SetChanges(changes ...server.FileChange) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.changes = changes
}

// Changes implements [server.ContainerFiles].
func (d *containerPart) Changes(_ context.Context, ref string, f func([]server.FileChange) error) error {
	if err := d.enter("Changes"); err != nil {
		return err
	}
	defer d.mu.Unlock()
	if _, err := d.container(ref); err != nil {
		return err
	}
	return f(d.changes)
}

// Export implements [server.ContainerFiles].
func (d *containerPart) Export(_ context.Context, ref string, w io.Writer) error {
	if err := d.enter("Export"); err != nil {
		return err
	}
	defer d.mu.Unlock()
	c, err := d.container(ref)
	if err == nil {
		_, err = fmt.Fprintln(w, "tar of", c.view.Spec.Name)
	}
	return err
}

// DiskUsage implements [server.System].
func (d *systemPart) DiskUsage(context.Context) (server.DiskUsage, error) {
	var u server.DiskUsage
	if err := d.enter("DiskUsage"); err != nil {
		return u, err
	}
	defer d.mu.Unlock()
	for _, i := range d.images {
		u.Images = append(u.Images, server.ImageUsage{Image: i, OnDisk: i.Size, Shared: i.Size / 4,
			Unique: i.Size - i.Size/4, Containers: d.imageUsers(i.ID)})
		u.ImagesSize += i.Size
	}
	for _, c := range d.containers {
		u.Containers = append(u.Containers, server.ContainerUsage{ID: c.view.ID, Name: c.view.Spec.Name,
			Image: c.view.Spec.Image, Status: string(c.view.Status), Created: c.view.Created, Size: 1 << 20})
	}
	for _, v := range d.volumes {
		u.Volumes = append(u.Volumes, server.VolumeUsage{VolumeView: d.volumeView(v), Size: 1 << 21})
	}
	u.Leftovers = 12 << 20
	return u, nil
}
