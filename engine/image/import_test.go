package image_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/internal/store/mem"
)

func TestImport(t *testing.T) {
	plain := rootfs(t)
	for _, c := range []struct {
		name string
		data []byte
	}{
		{"plain", plain},
		{"gzip", run(t, plain, "gzip", "-c")},
		{"several gzip members", append(run(t, plain[:5000], "gzip", "-c"), run(t, plain[5000:], "gzip", "-c")...)},
		{"zstd", run(t, plain, "zstd", "-c")},
		{"xz", run(t, plain, "xz", "-0", "-c")},
		{"bzip2", run(t, plain, "bzip2", "-c")},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := open(t)
			img := f.mustImport(t, c.data, image.ImportOptions{
				Reference: "docker.io/library/busybox", Message: "made by a test",
				Changes: []string{`CMD ["/bin/busybox", "sh"]`, "ENV PATH=/bin", "EXPOSE 80 53/udp", "WORKDIR /etc",
					"LABEL a=b"},
			})
			if diff := cmp.Diff([]string{"busybox:latest"}, img.References); diff != "" {
				t.Error(diff)
			}
			if img.OS != "linux" || img.Config.WorkingDir != "/etc" || img.Config.Cmd[1] != "sh" ||
				img.Config.Labels["a"] != "b" || len(img.Config.ExposedPorts) != 2 {
				t.Errorf("image = %+v", img)
			}
			dirs := f.LayerDirs(img)
			if len(dirs) != 1 {
				t.Fatalf("layers = %v", dirs)
			}
			want, err := os.ReadFile("/bin/busybox")
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(dirs[0], "bin/busybox"))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("busybox differs: %v", err)
			}
			if wantSize := int64(len(want) + len("root:x:0:0::/:/bin/sh\n")); img.Size != wantSize {
				t.Errorf("size = %d, want %d", img.Size, wantSize)
			}
			sum := run(t, plain, "sha256sum")
			if img.Layers[0] != "sha256:"+string(sum[:64]) {
				t.Errorf("diff ID = %s, want that of the uncompressed tar, %s", img.Layers[0], sum)
			}
		})
	}
}

func TestImportRefuses(t *testing.T) {
	plain := rootfs(t)
	archive := files{{"manifest.json", "[]"}, {"blobs/", ""}}.tar(t)
	gz := run(t, plain, "gzip", "-c")
	for _, c := range []struct {
		name string
		data []byte
		opts image.ImportOptions
		want string
	}{
		{"text", []byte("not a tar at all"), image.ImportOptions{},
			`is not a tar archive: it starts with "not a tar at all"`},
		{"nothing", nil, image.ImportOptions{}, "is not a tar archive: it is empty"},
		{"compressed text", run(t, []byte("text in gzip"), "gzip", "-c"), image.ImportOptions{},
			`starts with "text in gzip"`},
		{"compressed twice", run(t, gz, "gzip", "-c"), image.ImportOptions{}, "compressed twice"},
		{"truncated gzip", gz[:len(gz)/2], image.ImportOptions{}, "the gzip data is truncated"},
		{"truncated zstd", run(t, plain, "zstd", "-c")[:50_000], image.ImportOptions{}, "the zstd data is truncated"},
		{"truncated xz", run(t, plain, "xz", "-0", "-c")[:50_000], image.ImportOptions{}, "the xz data"},
		{"damaged gzip", append(bytes.Clone(gz[:5000]), bytes.Repeat([]byte{0xff}, 9000)...), image.ImportOptions{},
			"the gzip data cannot be decompressed"},
		{"truncated tar", plain[:len(plain)/2], image.ImportOptions{}, "is truncated"},
		{"image archive", archive, image.ImportOptions{}, "net load"},
		{"absolute", files{{"/etc/passwd", "x"}}.tar(t), image.ImportOptions{}, `"/etc/passwd": has an absolute path`},
		{"capital letters", plain, image.ImportOptions{Reference: "BusyBox"}, "has capital letters"},
		{"capital letters and a tag", plain, image.ImportOptions{Reference: "x:50/Box:V1"}, "has capital letters"},
		{"bad tag", plain, image.ImportOptions{Reference: "busybox:"}, "malformed"},
		{"digest", plain, image.ImportOptions{Reference: "a@sha256:" + strings.Repeat("0", 64)}, "digest"},
		{"looks like an ID", plain, image.ImportOptions{Reference: strings.Repeat("a", 64)}, "looks like an image ID"},
		{"unknown instruction", plain, image.ImportOptions{Changes: []string{"RUN true"}}, `"RUN" is no instruction`},
		{"bad port", plain, image.ImportOptions{Changes: []string{"EXPOSE 0"}}, "PORT[-PORT]"},
		{"open quote", plain, image.ImportOptions{Changes: []string{`ENV A="b`}}, "left open"},
		{"no value", plain, image.ImportOptions{Changes: []string{"CMD"}}, "has no value"},
		{"platform", plain, image.ImportOptions{Platform: "windows/amd64"}, "is not linux/ARCHITECTURE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := open(t)
			_, err := f.Import(t.Context(), bytes.NewReader(c.data), c.opts)
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, cnm.ErrInvalid) {
				t.Errorf("error %v, want an ErrInvalid with %q", err, c.want)
			}
			f.empty(t)
		})
	}
}

// breaking runs a function once half was read.
type breaking struct {
	r    io.Reader
	left int
	call func() error
}

func (b *breaking) Read(p []byte) (int, error) {
	n, err := b.r.Read(p[:min(len(p), 4096)])
	if b.left -= n; b.left < 0 {
		if cerr := b.call(); cerr != nil {
			return n, cerr
		}
	}
	return n, err
}

func TestImportLeavesNothingHalfDone(t *testing.T) {
	big := files{{"a", string(randomBytes(4 << 20))}, {"b", string(randomBytes(4 << 20))}}.tar(t)
	t.Run("cancelled", func(t *testing.T) {
		f := open(t)
		ctx, cancel := context.WithCancel(t.Context())
		_, err := f.Import(ctx, &breaking{bytes.NewReader(big), len(big) / 2,
			func() error { cancel(); return nil }}, image.ImportOptions{})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want it to be cancelled", err)
		}
		f.empty(t)
	})
	t.Run("connection lost", func(t *testing.T) {
		f := open(t)
		why := errors.New("connection lost")
		_, err := f.Import(t.Context(), &breaking{bytes.NewReader(big), len(big) / 2,
			func() error { return why }}, image.ImportOptions{})
		if !errors.Is(err, why) {
			t.Errorf("error %v, want %v", err, why)
		}
		f.empty(t)
	})
	t.Run("the record cannot be written", func(t *testing.T) {
		records := &failing{Store: mem.New(), err: errors.New("disk on fire")}
		f := openAt(t, filepath.Join(t.TempDir(), "images"), records)
		_, err := f.Import(t.Context(), bytes.NewReader(big), image.ImportOptions{Reference: "a"})
		if !errors.Is(err, records.err) {
			t.Errorf("error %v, want %v", err, records.err)
		}
		f.empty(t)
	})
	t.Run("killed", func(t *testing.T) {
		f := open(t)
		keep := f.mustImport(t, rootfs(t), image.ImportOptions{Reference: "keep"})
		for _, left := range []string{"layer-123/fs/bin", "gone-1/layer/fs"} {
			if err := os.MkdirAll(filepath.Join(f.root, "tmp", left), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		again := openAt(t, f.root, f.records)
		if layers, temporary := again.onDisk(t); layers != 1 || temporary != 0 {
			t.Errorf("%d layers and %d temporary files, want 1 and 0", layers, temporary)
		}
		if _, err := again.Resolve(t.Context(), keep.ID); err != nil {
			t.Error(err)
		}
	})
}

// failing is a store that takes no writes.
type failing struct {
	cnm.Store
	err error
}

func (f *failing) Commit(context.Context, ...cnm.Write) error { return f.err }

func TestImportOnFullDisk(t *testing.T) {
	big := files{{"a", string(randomBytes(16 << 20))}}.tar(t)
	for name, c := range map[string]struct{ options, want string }{
		"bytes":  {"size=4m", "no space left for it ("},
		"inodes": {"size=64m,nr_inodes=9", "no inodes left for it ("},
	} {
		t.Run(name, func(t *testing.T) {
			small := t.TempDir()
			if err := unix.Mount("tmpfs", small, "tmpfs", 0, c.options); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := unix.Unmount(small, 0); err != nil { // fails if a descriptor leaked
					t.Error(err)
				}
			})
			f := openAt(t, filepath.Join(small, "images"), mem.New())
			data := big
			if name == "inodes" {
				data = files{{"a", ""}, {"b", ""}, {"c", ""}, {"d", ""}, {"e", ""}, {"f", ""}}.tar(t)
			}
			_, err := f.Import(t.Context(), bytes.NewReader(data), image.ImportOptions{Reference: "a"})
			if !errors.Is(err, cnm.ErrExhausted) || !errors.Is(err, unix.ENOSPC) {
				t.Fatalf("error %v, want ErrExhausted and ENOSPC", err)
			}
			for _, want := range []string{f.root, c.want, "net rmi", "--root"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
			f.empty(t)
			if name == "bytes" {
				_, err = f.Load(t.Context(), bytes.NewReader(big))
				if !errors.Is(err, cnm.ErrExhausted) {
					t.Errorf("load: error %v, want ErrExhausted", err)
				}
				f.empty(t)
				f.mustImport(t, rootfs(t), image.ImportOptions{Reference: "small enough"[:5]})
			}
		})
	}
}

func TestImportsAtOnce(t *testing.T) {
	f := open(t)
	same := rootfs(t)
	var wg sync.WaitGroup
	errs := make([]error, 12)
	for i := range errs {
		wg.Go(func() {
			data := same
			if i%3 == 2 {
				data = files{{"own", fmt.Sprint(i)}}.tar(t)
			}
			_, errs[i] = f.Import(t.Context(), bytes.NewReader(data),
				image.ImportOptions{Reference: fmt.Sprintf("img:%d", i)})
			if errs[i] == nil && i%2 == 1 { // sweeps while others publish
				_, _, errs[i] = f.Remove(t.Context(), fmt.Sprintf("img:%d", i), false, nil)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	all, err := f.List(t.Context())
	if err != nil || len(all) != 6 {
		t.Fatalf("%d images, %v, want 6", len(all), err)
	}
	for _, img := range all {
		for _, dir := range f.LayerDirs(img) {
			if _, err := os.Stat(dir); err != nil {
				t.Errorf("image %v: %v", img.References, err)
			}
		}
	}
	if layers, temporary := f.onDisk(t); layers != 3 || temporary != 0 {
		t.Errorf("%d layers and %d temporary files, want 3 and 0", layers, temporary)
	}
}
