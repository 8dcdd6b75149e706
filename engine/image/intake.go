package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image/unpack"
	"github.com/vethloom/vethloom/engine/rootfile"
	"github.com/vethloom/vethloom/engine/snapshot"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// intake is what one operation brings in. Nothing of it is collected until close, and all of it appears with publish.
type intake struct {
	c    *content
	room *space

	mu       sync.Mutex
	releases []func()
	files    map[string]string // staged blobs: where they are, and where they go
	layers   []*placed
	own      []*unpacked // layers that nobody else can use
}

// wanted is a layer to be brought in.
type wanted struct {
	diffID, chain v1.Hash
	blob          v1.Descriptor // the zero one: what is read is not kept as it is, and a blob is made of it
	open          opener
	give          giver
}

// placed is a layer that is there, or staged.
type placed struct {
	key    string // what it is kept under, in hexadecimal digits
	info   layerInfo
	blob   v1.Descriptor
	staged *unpacked // nil: it is there
}

// unpacked is a layer in the temporary directory.
type unpacked struct {
	dir       string
	diffID    v1.Hash
	info      layerInfo
	published bool // guarded by content.mu
}

// discard removes the layer unless it was published.
func (u *unpacked) discard() error {
	if u.published {
		return nil
	}
	return rootfile.RemoveTree(u.dir)
}

func (c *content) intake() *intake {
	c.thrift.begin()
	return &intake{c: c, room: c.space(), files: map[string]string{}}
}

// close lets go of all that was not published.
func (i *intake) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, release := range i.releases {
		release()
	}
	for from := range i.files {
		if filepath.Dir(from) == i.c.tmp() {
			os.Remove(from) // it is emptied at the next start at the latest
		}
	}
	for _, u := range i.own {
		if err := u.discard(); err != nil {
			i.c.log.Warn("cannot remove a layer that is not needed", "dir", u.dir, "err", err)
		}
	}
	i.releases, i.files, i.own = nil, nil, nil
	much := i.room.memory() > muchMemory
	i.room = nil
	if much {
		debug.FreeOSMemory()
	}
	i.c.thrift.end()
}

// muchMemory is from how many bytes on an operation gives its memory back to the system at once: by itself, a daemon
// that rests afterwards would keep it for minutes, and that of the next operation would come on top of it. It takes
// some milliseconds.
const muchMemory = 4 << 20

// thrift has garbage collected earlier while something is brought in: what that holds is large and is no garbage, and
// twice as much would be waited for.
type thrift struct {
	mu         sync.Mutex
	operations int
	before     int
}

// frugalPercent is how much garbage there may be meanwhile, in percent of what is none (GOGC is 100 otherwise).
const frugalPercent = 25

func (t *thrift) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.operations++; t.operations == 1 {
		t.before = debug.SetGCPercent(frugalPercent)
	}
}

func (t *thrift) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.operations--; t.operations == 0 {
		debug.SetGCPercent(t.before)
	}
}

// hold pins a thing until close.
func (i *intake) hold(kind, hex string) *pin {
	p, release := i.c.hold(kind, hex)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.releases = append(i.releases, release)
	return p
}

// document takes in a manifest or a configuration.
func (i *intake) document(raw []byte) (v1.Hash, error) {
	h := digestOf(raw)
	i.hold(pinBlob, h.Hex)
	if _, err := i.c.readBlob(h); err == nil {
		return h, nil
	}
	file, err := i.c.stageBlob(raw)
	if err != nil {
		return h, fmt.Errorf("write blob %s: %w", h, err)
	}
	i.stage(file, i.c.blob(h))
	return h, nil
}

func (i *intake) stage(from, to string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.files[from] = to
}

// keeps reports whether a blob is there, or is fetched and verified and waits to be published.
func (i *intake) keeps(p *pin, d v1.Descriptor) bool {
	return p.verified && p.size == d.Size || i.c.hasBlob(d.Digest, d.Size)
}

// blob fetches a blob that is no layer.
func (i *intake) blob(ctx context.Context, d v1.Descriptor, open opener) error {
	p := i.hold(pinBlob, d.Digest.Hex)
	done, err := p.take(ctx)
	if err != nil {
		return err
	}
	defer done()
	if !i.keeps(p, d) {
		w := wanted{blob: d, open: open}
		_, err = i.bring(ctx, w, p, func(f *fetch) (*unpacked, error) { return nil, f.verify() })
	}
	i.stage(i.c.ingest(d.Digest), i.c.blob(d.Digest))
	return err
}

// layer makes a layer and its blob be there, or be staged. report is told how far it is, also while another operation
// is at it.
func (i *intake) layer(ctx context.Context, w wanted, report func(Progress)) (*placed, error) {
	lp := i.hold(pinLayer, w.diffID.Hex)
	i.hold(pinLayer, w.chain.Hex)
	bp := i.hold(pinBlob, w.blob.Digest.Hex)
	defer bp.watch(report)()
	done, err := lp.take(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	blobDone, err := bp.take(ctx) // by digest: two layers may claim one blob
	if err != nil {
		return nil, err
	}
	defer blobDone()
	have := i.find(lp, w)
	part := w.blob.Digest.String()
	if have != nil && i.keeps(bp, w.blob) {
		i.stage(i.c.ingest(w.blob.Digest), i.c.blob(w.blob.Digest))
		bp.tell(Progress{Part: part, Action: ActionExists, Current: w.blob.Size, Total: w.blob.Size})
		return i.place(have), nil
	}
	u, err := i.bring(ctx, w, bp, func(f *fetch) (*unpacked, error) {
		f.layer = true
		f.report = func(at int64) {
			bp.tell(Progress{Part: part, Action: downloading(f), Current: at, Total: w.blob.Size})
		}
		if have != nil {
			return nil, i.sameLayer(ctx, f, w.diffID)
		}
		return i.unpack(ctx, f, w.diffID)
	})
	if err != nil {
		return nil, err
	}
	i.stage(i.c.ingest(w.blob.Digest), i.c.blob(w.blob.Digest))
	bp.tell(Progress{Part: part, Action: ActionPulled, Current: w.blob.Size, Total: w.blob.Size})
	if have == nil {
		have = i.staged(lp, u, w.blob)
	}
	return i.place(have), nil
}

// downloading tells the network from what the disk has of a blob.
func downloading(f *fetch) string {
	if f.body == nil || f.at == f.want.Size {
		return ActionUnpacking
	}
	return ActionDownloading
}

func (i *intake) place(p *placed) *placed {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.layers = append(i.layers, p)
	return p
}

// find returns a layer that is there or staged; nil for none.
func (i *intake) find(p *pin, w wanted) *placed {
	for _, key := range []string{w.diffID.Hex, w.chain.Hex} {
		info, err := i.c.info(key)
		if err == nil && i.c.absent(key) == "" && (info.Needs.Empty() || key == w.chain.Hex) {
			return &placed{key: key, info: info, blob: w.blob}
		}
	}
	if u := p.shared(nil); u != nil {
		return &placed{key: w.diffID.Hex, info: u.info, blob: w.blob, staged: u}
	}
	return nil
}

// bring fetches a blob and has use made of it. What was fetched earlier and is damaged is fetched anew, once. What
// another operation has verified is only read: it may appear at any time.
func (i *intake) bring(ctx context.Context, w wanted, p *pin, use func(*fetch) (*unpacked, error)) (*unpacked, error) {
	if p.verified && p.size != w.blob.Size {
		return nil, &unpack.FormatError{Reason: fmt.Sprintf("has a blob %s of %d bytes, and the one of this digest "+
			"has %d", w.blob.Digest, w.blob.Size, p.size), Remedy: "have the image made again"}
	}
	if w.give != nil && !p.verified && !i.c.hasBlob(w.blob.Digest, w.blob.Size) {
		if err := w.give(w.blob, i.c.ingest(w.blob.Digest)); err != nil {
			return nil, fmt.Errorf("take blob %s from the archive: %w", w.blob.Digest, diskError(i.c.root, err))
		}
	}
	for {
		f, err := i.c.startFetch(ctx, w.blob, w.open, i.room, nil)
		if err != nil {
			return nil, err
		}
		u, err := use(f)
		resumed := f.have > 0
		if cerr := f.close(); err == nil && cerr != nil {
			err = fmt.Errorf("write blob %s: %w", w.blob.Digest, diskError(i.c.root, cerr))
		}
		if err == nil {
			p.verified, p.size = true, w.blob.Size
			return u, nil
		}
		if f.failed != nil || errors.Is(err, cnm.ErrExhausted) { // what was fetched is good as far as it goes
			return nil, errors.Join(err, u.discardFailed())
		}
		_, damaged := errors.AsType[*mismatchError](err)
		err = errors.Join(err, u.discardFailed(), i.c.drop(f, p, damaged))
		if !damaged || !resumed || w.open == nil {
			return nil, err
		}
	}
}

func (u *unpacked) discardFailed() error {
	if u == nil {
		return nil
	}
	return u.discard()
}

// unpack unpacks a blob that is being fetched. Both digests are right when it returns no error.
func (i *intake) unpack(ctx context.Context, f *fetch, diffID v1.Hash) (*unpacked, error) {
	u, err := i.c.unpack(ctx, f, unpack.Options{Layer: true}, i.room, nil)
	if errors.Is(err, cnm.ErrExhausted) {
		return u, err // the rest of it would be fetched for nothing
	}
	if verr := f.verify(); verr != nil && ctx.Err() == nil {
		// A blob that is not what it should be explains why it could not be unpacked.
		if _, damaged := errors.AsType[*mismatchError](verr); damaged || err == nil {
			return u, verr
		}
	}
	if err == nil && u.diffID != diffID {
		err = wrongDiffID(diffID, u.diffID)
	}
	if err == nil {
		u.info.Blob = f.want
		err = i.c.note(u)
	}
	return u, err
}

func wrongDiffID(want, got v1.Hash) error {
	return &unpack.FormatError{
		Reason: fmt.Sprintf("does not match its digest: it should be %s and is %s", want, got),
		Remedy: "it is damaged or was tampered with: fetch or make the image again",
	}
}

// sameLayer checks that a blob is that of a layer that is there.
func (i *intake) sameLayer(ctx context.Context, f *fetch, diffID v1.Hash) error {
	s := openStream(ctx, f, i.room, nil)
	got, _, err := s.digest()
	s.close()
	if verr := f.verify(); verr != nil {
		return verr
	}
	if err == nil && got != diffID {
		err = wrongDiffID(diffID, got)
	}
	return err
}

// compress unpacks a tar and makes its blob: what it is compressed with is not kept.
func (i *intake) compress(ctx context.Context, r io.Reader, o unpack.Options) (*unpacked, v1.Descriptor, error) {
	f, err := i.c.makeFile(i.c.tmp(), "blob-")
	if err != nil {
		return nil, v1.Descriptor{}, fmt.Errorf("make blob: %w", diskError(i.c.root, err))
	}
	sum := newSummer(f, i.room)
	z, err := newCompressor(sum)
	var u *unpacked
	if err == nil {
		u, err = i.c.unpack(ctx, r, o, i.room, z)
		if cerr := z.Close(); err == nil { // a disk that is full says so once
			err = cerr
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, v1.Descriptor{}, errors.Join(err, u.discardFailed(), os.Remove(f.Name()))
	}
	d := v1.Descriptor{MediaType: types.OCILayer, Digest: sum.digest(), Size: sum.n}
	i.hold(pinBlob, d.Digest.Hex)
	i.stage(f.Name(), i.c.blob(d.Digest))
	u.info.Blob = d
	if err := i.c.note(u); err != nil {
		return nil, d, errors.Join(err, u.discard())
	}
	return u, d, nil
}

// adopt places a layer that was unpacked, unless it is there or staged already.
func (i *intake) adopt(ctx context.Context, u *unpacked, chain v1.Hash, d v1.Descriptor) (*placed, error) {
	p := i.hold(pinLayer, u.diffID.Hex)
	done, err := p.take(ctx)
	if err != nil {
		return nil, errors.Join(err, u.discard())
	}
	defer done()
	have := i.find(p, wanted{diffID: u.diffID, chain: chain, blob: d})
	if have != nil {
		return i.place(have), u.discard()
	}
	return i.place(i.staged(p, u, d)), nil
}

// staged places a layer that was unpacked. One that is complete by itself is for all who wait for it.
func (i *intake) staged(p *pin, u *unpacked, blob v1.Descriptor) *placed {
	if u.info.Needs.Empty() {
		p.shared(u)
	} else {
		i.mu.Lock()
		i.own = append(i.own, u)
		i.mu.Unlock()
	}
	return &placed{key: u.diffID.Hex, info: u.info, blob: blob, staged: u}
}

// complete has layers take what they need from those below. layers are bottom first.
func (i *intake) complete(ctx context.Context, layers []*placed, chains []v1.Hash) error {
	for n, p := range layers {
		if p.staged == nil || p.info.Needs.Empty() {
			continue
		}
		p.key = chains[n].Hex
		err := unpack.Complete(ctx, filepath.Join(p.staged.dir, "fs"), p.info.Needs, i.dirs(layers[:n]))
		if errors.Is(err, fs.ErrNotExist) { // another operation has just given one of them its place
			err = unpack.Complete(ctx, filepath.Join(p.staged.dir, "fs"), p.info.Needs, i.dirs(layers[:n]))
		}
		if err != nil {
			return fmt.Errorf("layer %d of %d: %w", n+1, len(layers), err)
		}
	}
	return nil
}

// dirs are where layers are now.
func (i *intake) dirs(layers []*placed) []string {
	i.c.mu.Lock()
	defer i.c.mu.Unlock()
	var out []string
	for _, p := range layers {
		if p.staged != nil && !p.staged.published {
			out = append(out, filepath.Join(p.staged.dir, "fs"))
		} else {
			out = append(out, i.c.fs(p.key))
		}
	}
	return out
}

// publish writes all that was taken in to the disk, and has it appear.
func (i *intake) publish() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	fresh := false
	for from := range i.files {
		if _, err := os.Lstat(from); err == nil {
			fresh = true
		}
	}
	for _, p := range i.layers {
		fresh = fresh || p.staged != nil
	}
	if !fresh {
		return nil
	}
	if err := i.c.sync(); err != nil {
		return diskError(i.c.root, err)
	}
	i.c.mu.Lock()
	defer i.c.mu.Unlock()
	for from, to := range i.files {
		err := i.c.publish(from, to)
		if errors.Is(err, fs.ErrNotExist) {
			_, err = os.Lstat(to) // another has published it
		}
		if err != nil {
			return fmt.Errorf("publish blob %s: %w", filepath.Base(to), diskError(i.c.root, err))
		}
	}
	for _, p := range i.layers {
		if p.staged == nil || p.staged.published {
			continue
		}
		mended, err := i.c.mend(p.staged.dir, p.key)
		if mended {
			p.staged.published = true
			err = errors.Join(err, rootfile.RemoveTree(p.staged.dir))
		}
		if err != nil {
			return fmt.Errorf("mend layer %s: %w", p.key, diskError(i.c.root, err))
		}
		if mended {
			continue
		}
		if err := i.c.publish(p.staged.dir, i.c.layer(p.key)); err != nil {
			return fmt.Errorf("publish layer %s: %w", p.key, diskError(i.c.root, err))
		}
		if _, err := os.Lstat(p.staged.dir); errors.Is(err, fs.ErrNotExist) {
			p.staged.published = true
		}
	}
	i.files = map[string]string{}
	return diskError(i.c.root, errors.Join(i.c.syncDirectory(i.c.blobsDir()), i.c.syncDirectory(i.c.layersDir())))
}

// unpack unpacks a tar, compressed or not, into the temporary directory, and leaves nothing there when it fails. What
// it is when decompressed goes to tap as well, if there is one.
func (c *content) unpack(ctx context.Context, r io.Reader, o unpack.Options, room *space, tap io.Writer) (u *unpacked,
	err error) {
	dir, err := c.makeDir("layer-")
	if err != nil {
		return nil, fmt.Errorf("make directory for layer: %w", diskError(c.root, err))
	}
	u = &unpacked{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(diskError(c.root, err), u.discard())
			u = nil
		}
	}()
	target := filepath.Join(dir, "fs")
	if err := os.Mkdir(target, 0o755); err != nil {
		return u, err
	}
	s := openStream(ctx, r, room, tap)
	defer s.close()
	res, err := unpack.Unpack(ctx, target, s, o)
	if err != nil {
		return u, err
	}
	if res.Root {
		err := unix.Setxattr(target, snapshot.RootMark, []byte("y"), 0)
		if err != nil && !errors.Is(err, unix.ENOTSUP) {
			return u, fmt.Errorf("mark a layer that has its root directory: %w", err)
		}
	}
	var tarSize int64
	if u.diffID, tarSize, err = s.digest(); err != nil {
		return u, err
	}
	if res.LostXattrs > 0 {
		c.log.Warn("the image directory's filesystem cannot keep some extended attributes", "layer", u.diffID.String(),
			"attributes", res.LostXattrs)
	}
	u.info = layerInfo{DiffID: u.diffID.String(), Size: res.Size, TarSize: tarSize, Needs: res.Needs}
	return u, nil
}

// note writes down what is known of the layer.
func (c *content) note(u *unpacked) error {
	b, err := json.Marshal(u.info)
	if err == nil {
		err = c.step("write layer.json")
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(u.dir, "layer.json"), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write down what is known of a layer: %w", diskError(c.root, err))
	}
	return nil
}
