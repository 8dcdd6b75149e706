package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Image is the name of the image that every node of a lab has: busybox, and a page for its web server.
const Image = "busybox"

const imageFile = "busybox.tar"

// writeImage packs a root filesystem of busybox.
func (l *processes) writeImage(ctx context.Context, path string) error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("the containers of a lab run busybox: install busybox-static: %w", err)
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		return fmt.Errorf("pack busybox: %w", err)
	}
	applets, err := l.run(ctx, busybox, "--list")
	if err != nil {
		return fmt.Errorf("pack busybox: %w", err)
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	add := func(h tar.Header, content []byte) {
		h.Size = int64(len(content))
		if e := w.WriteHeader(&h); e != nil && err == nil {
			err = e
		}
		if _, e := w.Write(content); e != nil && err == nil {
			err = e
		}
	}
	for _, dir := range []string{"bin/", "dev/", "etc/", "proc/", "root/", "run/", "sys/", "www/"} {
		add(tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}, nil)
	}
	add(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil)
	for name, text := range map[string]string{
		"etc/passwd":     "root:x:0:0:root:/root:/bin/sh\n",
		"etc/group":      "root:x:0:\n",
		"www/index.html": "hello from a container\n",
	} {
		add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, []byte(text))
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, program)
	for name := range strings.FieldsSeq(applets) {
		if name != "busybox" {
			add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox"}, nil)
		}
	}
	if e := w.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.WriteFile(path, out.Bytes(), 0o644)
	}
	if err != nil {
		return fmt.Errorf("pack busybox: %w", err)
	}
	return nil
}

// giveImage imports the image on a node that does not have it yet.
func (l *processes) giveImage(ctx context.Context, node string) error {
	net := []string{l.program("net"), "--host", "unix://" + l.Socket(node)}
	if _, err := l.run(ctx, append(net, "image", "inspect", Image)...); err == nil {
		return nil
	}
	if _, err := l.run(ctx, append(net, "import", l.path(imageFile), Image)...); err != nil {
		return fmt.Errorf("give %s its image: %w", node, err)
	}
	return nil
}
