package engine

import (
	"bytes"
	"debug/elf"
	"io/fs"
	"os"
	"strings"

	"github.com/vethloom/vethloom/engine/image"
)

// loaders32 are where images keep the dynamic loaders of 32-bit programs.
func loaders32() []string {
	return []string{
		"lib/ld-linux.so.2", "lib/ld-musl-i386.so.1", "lib/ld-linux-armhf.so.3", "lib/ld-linux.so.3",
		"lib/ld-musl-armhf.so.1",
	}
}

// has32Bit tells whether a container may run programs of the 32-bit sister of the
// host's architecture: its image is for one, has a dynamic loader for them, or the command or a shell in it is one.
// Others get a system-call filter without that ABI, which is most of the cost of the filter
// and an attack surface of its own.
func has32Bit(img image.Image, layers, args []string) bool {
	if img.Architecture == "386" || img.Architecture == "arm" {
		return true
	}
	programs := []string{"bin/sh", "bin/busybox", "bin/bash"}
	if len(args) > 0 && strings.HasPrefix(args[0], "/") {
		programs = append(programs, strings.TrimLeft(args[0], "/"))
	}
	for _, layer := range layers {
		if layerHas32Bit(layer, programs) {
			return true
		}
	}
	return false
}

func layerHas32Bit(layer string, programs []string) bool {
	root, err := os.OpenRoot(layer)
	if err != nil {
		return false // it cannot be mounted either
	}
	defer root.Close()
	for _, dir := range []string{"", "usr/"} {
		for _, l := range loaders32() {
			if _, err := root.Lstat(dir + l); err == nil {
				return true
			}
		}
		for _, p := range programs {
			if isELF32(root, dir+p) {
				return true
			}
		}
	}
	return false
}

func isELF32(root *os.Root, name string) bool {
	st, err := root.Stat(name)
	if err != nil || st.Mode()&fs.ModeType != 0 {
		return false
	}
	f, err := root.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	var ident [elf.EI_NIDENT]byte
	n, err := f.Read(ident[:])
	return err == nil && n == len(ident) && bytes.HasPrefix(ident[:], []byte(elf.ELFMAG)) &&
		elf.Class(ident[elf.EI_CLASS]) == elf.ELFCLASS32
}
