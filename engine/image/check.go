package image

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image/unpack"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// CheckOptions say what a check does with what it finds.
type CheckOptions struct {
	Repair bool
	Report func(Progress)
	Found  func(Damage) error // its error ends the check
	// Running names the containers that run and were made from an image: layers under them are not repaired.
	Running func(imageID string) []string
}

// Damage is something that is not as its digest says, or missing.
type Damage struct {
	Object   string   // "blob sha256:…", "layer sha256:…"
	Images   []string // that need it: names, or IDs
	Problem  string
	Repaired bool
	Remedy   string // "": none is needed
}

// Checked is how much a check has read.
type Checked struct {
	Images, Blobs, Layers int
	Bytes                 int64 // of blobs
}

// Check reads every blob that images have and compares it with its digest. Every layer is unpacked anew beside the one
// that is there, and compared with it file by file; that needs room for one layer. With repair, a layer that differs is
// exchanged for the new one, and a damaged blob is moved away, so that the next pull fetches it.
func (s *Store) Check(ctx context.Context, o CheckOptions) (Checked, error) {
	all, err := s.entries(ctx)
	if err != nil {
		return Checked{}, fmt.Errorf("check images: %w", err)
	}
	k := &check{s: s, c: s.content, o: o, report: throttle(o.Report), bad: map[string]bool{}}
	k.done.Images = len(all)
	if err := k.run(ctx, all); err != nil {
		return k.done, fmt.Errorf("check images: %w", err)
	}
	return k.done, nil
}

// check is one on its way.
type check struct {
	s      *Store
	c      *content
	o      CheckOptions
	report func(Progress)
	bad    map[string]bool // blobs that are damaged, by hexadecimal digits
	done   Checked
}

// users are the images that need a thing, by the thing's name on the disk.
type users map[string][]*entry

func (k *check) run(ctx context.Context, all map[string]*entry) error {
	blobs, layers, height := users{}, users{}, map[string]int{}
	for _, e := range all {
		for _, m := range e.record.Manifests {
			for _, b := range m.Blobs {
				blobs[b] = append(blobs[b], e)
			}
		}
		for n, key := range e.image.layerKeys {
			if !slices.Contains(e.image.layerKeys[:n], key) {
				layers[key] = append(layers[key], e)
				height[key] = max(height[key], n)
			}
		}
	}
	for _, b := range sorted(blobs) {
		if err := k.blob(ctx, v1.Hash{Algorithm: "sha256", Hex: b}, blobs[b]); err != nil {
			return err
		}
	}
	// What is below comes first: layers are completed with it.
	keys := sorted(layers)
	slices.SortStableFunc(keys, func(a, b string) int { return cmp.Compare(height[a], height[b]) })
	for _, key := range keys {
		if err := k.layer(ctx, key, layers[key]); err != nil {
			return err
		}
	}
	return nil
}

func sorted(u users) []string {
	var out []string
	for k := range u {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// names are what to call images.
func names(of []*entry) []string {
	var out []string
	for _, e := range of {
		if len(e.record.References) > 0 {
			out = append(out, e.record.References...)
		} else {
			out = append(out, e.id)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// remedy says how images come in again.
func remedy(of []*entry) string {
	n := names(of)
	return fmt.Sprintf("bring %s in again: 'net pull %s', or 'net load' or 'net import' where it came from a file",
		strings.Join(n, ", "), n[0])
}

// blob compares a blob with its digest.
func (k *check) blob(ctx context.Context, h v1.Hash, of []*entry) error {
	in := k.c.intake()
	defer in.close()
	p := in.hold(pinBlob, h.Hex)
	done, err := p.take(ctx)
	if err != nil {
		return err
	}
	defer done()
	n, err := k.read(ctx, h)
	k.done.Blobs++
	k.done.Bytes += n
	corrupt, damaged := errors.AsType[*CorruptError](err)
	if !damaged {
		return err
	}
	if still, err := k.needed(ctx, of, func(e *entry) bool { return slices.Contains(e.blobs(), h.Hex) }); err != nil ||
		!still {
		return err
	}
	k.bad[h.Hex] = true
	d := Damage{Object: "blob " + h.String(), Images: names(of), Problem: corrupt.Reason, Remedy: remedy(of)}
	if k.o.Repair {
		if err := ignoreMissing(k.c.remove(k.c.blob(h))); err != nil {
			return fmt.Errorf("remove a damaged blob: %w", err)
		}
		d.Problem += "; it was removed, and the next pull fetches it"
	}
	return k.o.Found(d)
}

func (e *entry) blobs() (out []string) {
	for _, m := range e.record.Manifests {
		out = append(out, m.Blobs...)
	}
	return out
}

// needed reports whether any of the images is there still, and needs a thing: what is removed meanwhile is not missing.
func (k *check) needed(ctx context.Context, of []*entry, needs func(*entry) bool) (bool, error) {
	all, err := k.s.entries(ctx)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(of, func(e *entry) bool { return all[e.id] != nil && needs(all[e.id]) }), nil
}

func (k *check) read(ctx context.Context, h v1.Hash) (int64, error) {
	size, err := k.c.blobSize(h)
	if err != nil {
		return 0, err
	}
	b, err := k.c.openVerified(h)
	if err != nil {
		return 0, err
	}
	defer b.Close()
	at := int64(0)
	told := ending{ctx, readerFunc(func(p []byte) (int, error) {
		n, err := b.Read(p)
		at += int64(n)
		k.report(Progress{Part: h.String(), Action: ActionChecking, Current: at, Total: size})
		return n, err
	})}
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, told, make([]byte, copyBuffer))
	if errors.Is(err, unix.EIO) {
		err = &CorruptError{Digest: h.String(), Reason: "cannot be read: " + err.Error()}
	}
	return n, err
}

type readerFunc func([]byte) (int, error)

// Read implements [io.Reader].
func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// layer unpacks a layer anew and compares it with the one that is there.
func (k *check) layer(ctx context.Context, key string, of []*entry) error {
	in := k.c.intake()
	defer in.close()
	e := of[0]
	n := slices.Index(e.image.layerKeys, key)
	diffID := v1.Hash{Algorithm: "sha256", Hex: strings.TrimPrefix(e.image.Layers[n], "sha256:")}
	in.hold(pinLayer, key)
	done, err := in.hold(pinLayer, diffID.Hex).take(ctx)
	if err != nil {
		return err
	}
	defer done()
	k.report(Progress{Part: diffID.String(), Action: ActionChecking})
	k.done.Layers++
	problem := k.c.absent(key)
	u, err := k.unpack(ctx, in, e, n, diffID)
	if _, damaged := errors.AsType[*CorruptError](err); err != nil && !damaged {
		return err
	}
	if u != nil {
		defer func() { _ = u.discard() }() // the directory is emptied at the next start at the latest
		if problem == "" {
			problem, err = differs(ctx, k.c.fs(key), filepath.Join(u.dir, "fs"))
			if err != nil {
				return err
			}
		}
	}
	if problem == "" {
		return nil
	}
	has := func(e *entry) bool { return slices.Contains(e.image.layerKeys, key) }
	if still, err := k.needed(ctx, of, has); err != nil || !still {
		return err
	}
	d := Damage{Object: "layer " + diffID.String(), Images: names(of), Problem: problem, Remedy: remedy(of)}
	if u != nil {
		if d.Remedy = "unpack it anew with 'net system check --repair'"; k.o.Repair {
			d.Repaired, d.Remedy, err = k.replace(key, u, of)
		}
	}
	if err != nil && u != nil {
		return err
	}
	return k.o.Found(d)
}

// absent says what a layer lacks altogether; "" for nothing.
func (c *content) absent(key string) string {
	st, err := os.Lstat(c.fs(key))
	switch {
	case err != nil:
		return "is not there"
	case !st.IsDir():
		return "is no directory"
	}
	if _, err := c.info(key); err != nil {
		return "lacks what is known of it: " + err.Error()
	}
	return ""
}

// unpack makes a layer of an image anew of its blob; nil, and a [CorruptError], when no good one is there.
func (k *check) unpack(ctx context.Context, in *intake, e *entry, n int, diffID v1.Hash) (*unpacked, error) {
	d, err := k.blobOf(e, n)
	if err != nil {
		return nil, err
	}
	in.hold(pinBlob, d.Digest.Hex)
	f, err := k.c.startFetch(ctx, d, nil, in.room, nil)
	if err != nil {
		return nil, err
	}
	if f.have != d.Size {
		return nil, errors.Join(f.close(), &CorruptError{Digest: d.Digest.String(), Reason: "is not there"})
	}
	u, err := in.unpack(ctx, f, diffID)
	if err = errors.Join(err, f.close()); err != nil {
		return nil, errors.Join(err, u.discardFailed())
	}
	if u.info.Needs.Empty() {
		return u, nil
	}
	var below []string
	for _, key := range e.image.layerKeys[:n] {
		below = append(below, k.c.fs(key))
	}
	if err := unpack.Complete(ctx, filepath.Join(u.dir, "fs"), u.info.Needs, below); err != nil {
		return nil, errors.Join(&CorruptError{Digest: d.Digest.String(),
			Reason: "needs layers below it that are damaged: " + err.Error()}, u.discard())
	}
	return u, nil
}

// blobOf returns the blob of an image's layer that is good.
func (k *check) blobOf(e *entry, n int) (v1.Descriptor, error) {
	for _, m := range e.record.Manifests {
		raw, err := k.c.readBlob(m.Digest)
		if err != nil {
			continue // it was found already
		}
		parsed, err := v1.ParseManifest(bytes.NewReader(raw))
		if err != nil || n >= len(parsed.Layers) {
			continue
		}
		if d := parsed.Layers[n]; !k.bad[d.Digest.Hex] && k.c.hasBlob(d.Digest, d.Size) {
			return d, nil
		}
	}
	return v1.Descriptor{}, &CorruptError{Digest: e.image.Layers[n], Reason: "has no blob to be unpacked from"}
}

// replace gives a layer that was unpacked the place of the one that is there. What containers run on stays.
func (k *check) replace(key string, u *unpacked, of []*entry) (repaired bool, remedy string, err error) {
	if err := k.c.sync(); err != nil {
		return false, "", diskError(k.c.root, err)
	}
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	if users := k.running(of); len(users) > 0 {
		return false, fmt.Sprintf("container %s runs on it: stop it, and have it repaired with "+
			"'net system check --repair'", strings.Join(users, ", ")), nil
	}
	k.c.measured.Delete(k.c.layer(key))
	err = k.c.exchange(u.dir, k.c.layer(key))
	if errors.Is(err, unix.ENOENT) {
		if err = k.c.rename(u.dir, k.c.layer(key)); err == nil {
			u.published = true
		}
	} else if err == nil && len(k.running(of)) > 0 { // one has just been started
		err = k.c.exchange(u.dir, k.c.layer(key))
		return false, "stop the containers that run on it, and have it repaired with 'net system check --repair'", err
	}
	if err != nil {
		return false, "", fmt.Errorf("exchange layer %s: %w", key, err)
	}
	return true, "", k.c.syncDirectory(k.c.layersDir())
}

func (k *check) running(of []*entry) (out []string) {
	if k.o.Running == nil {
		return nil
	}
	for _, e := range of {
		out = append(out, k.o.Running(e.id)...)
	}
	return out
}

// CheckLayers reports a layer of an image that is not there, as a [cnm.ErrUnavailable]. It looks at no content.
func (s *Store) CheckLayers(img Image) error {
	for n, key := range img.layerKeys {
		if st, err := os.Lstat(s.content.fs(key)); err != nil || !st.IsDir() {
			name := img.ID
			if len(img.References) > 0 {
				name = img.References[0]
			}
			return &cnm.Error{Kind: cnm.ErrUnavailable,
				Reason: fmt.Sprintf("image %s lacks its layer %s, which somebody removed", name, img.Layers[n]),
				Remedy: fmt.Sprintf("have it unpacked anew with 'net system check --repair' or 'net pull %s'", name)}
		}
	}
	return nil
}

// differs compares two trees: names, types, owners, modes, extended attributes, sizes, times and contents of files. It
// says how the first one differs; "" for not at all.
func differs(ctx context.Context, have, want string) (string, error) {
	return compareAt(ctx, have, want, "/")
}

func compareAt(ctx context.Context, have, want, at string) (string, error) {
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	a, b := filepath.Join(have, at), filepath.Join(want, at)
	var sa, sb unix.Stat_t
	if err := unix.Lstat(b, &sb); err != nil {
		return "", fmt.Errorf("compare layers: %s: %w", at, err)
	}
	if err := unix.Lstat(a, &sa); err != nil {
		return fmt.Sprintf("lacks %q: %v", at, err), nil
	}
	what, err := attributes(a, b, sa, sb)
	if err != nil || what != "" {
		return fmt.Sprintf("has %q with another %s", at, what), err
	}
	if sb.Mode&unix.S_IFMT != unix.S_IFDIR {
		return "", nil
	}
	return compareEntries(ctx, have, want, at)
}

func compareEntries(ctx context.Context, have, want, at string) (string, error) {
	mine, err := os.ReadDir(filepath.Join(have, at))
	if err != nil {
		return fmt.Sprintf("cannot be read at %q: %v", at, err), nil
	}
	theirs, err := os.ReadDir(filepath.Join(want, at))
	if err != nil {
		return "", fmt.Errorf("compare layers: %w", err)
	}
	for i := range max(len(mine), len(theirs)) {
		switch {
		case i >= len(theirs) || i < len(mine) && cmp.Less(mine[i].Name(), theirs[i].Name()):
			return fmt.Sprintf("has %q besides", filepath.Join(at, mine[i].Name())), nil
		case i >= len(mine) || mine[i].Name() != theirs[i].Name():
			return fmt.Sprintf("lacks %q", filepath.Join(at, theirs[i].Name())), nil
		}
		if what, err := compareAt(ctx, have, want, filepath.Join(at, mine[i].Name())); what != "" || err != nil {
			return what, err
		}
	}
	return "", nil
}

// attributes names what two files differ in; "" for nothing. Directories have no times of their own: what is completed
// from layers below changes them.
func attributes(a, b string, sa, sb unix.Stat_t) (string, error) {
	kind := sb.Mode & unix.S_IFMT
	switch {
	case sa.Mode&unix.S_IFMT != kind:
		return "type", nil
	case sa.Mode != sb.Mode:
		return "mode", nil
	case sa.Uid != sb.Uid || sa.Gid != sb.Gid:
		return "owner", nil
	case sa.Rdev != sb.Rdev:
		return "device number", nil
	case kind == unix.S_IFREG && sa.Size != sb.Size:
		return "size", nil
	case kind == unix.S_IFREG && sa.Mtim != sb.Mtim:
		return "time of change", nil
	}
	xa, err := xattrsOf(a)
	if err != nil {
		return "", err
	}
	xb, err := xattrsOf(b)
	if err != nil {
		return "", err
	}
	if !slices.Equal(xa, xb) {
		return "extended attribute", nil
	}
	switch kind {
	case unix.S_IFREG:
		return sameContent(a, b)
	case unix.S_IFLNK:
		ta, err := os.Readlink(a)
		if err != nil {
			return "", err
		}
		if tb, err := os.Readlink(b); err != nil || ta != tb {
			return "target", err
		}
	}
	return "", nil
}

func xattrsOf(path string) ([]string, error) {
	names := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, names)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list extended attributes of %s: %w", path, err)
	}
	var out []string
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		m, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("read extended attribute %q of %s: %w", name, path, err)
		}
		out = append(out, name+"="+string(value[:m]))
	}
	slices.Sort(out)
	return out, nil
}

// sameContent compares two files of one size.
func sameContent(a, b string) (string, error) {
	fa, err := os.OpenFile(a, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return "content, as it cannot be opened", nil
	}
	defer fa.Close()
	fb, err := os.OpenFile(b, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer fb.Close()
	ba, bb := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		na, err := io.ReadFull(fa, ba)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return "content, as it cannot be read", nil
		}
		nb, err := io.ReadFull(fb, bb)
		if !bytes.Equal(ba[:na], bb[:nb]) {
			return "content", nil
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
	}
}
