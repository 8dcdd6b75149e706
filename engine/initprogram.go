package engine

import (
	"debug/elf"
	"errors"
	"os/exec"
	"path/filepath"

	"github.com/vethloom/vethloom/engine/shim"
)

// initTarget is where a container with an init of the host finds it.
const initTarget = "/sbin/docker-init"

// initNames are programs made to be a container's first process, the likeliest first.
var initNames = []string{"docker-init", "catatonit", "tini-static", "tini"}

// initProgram finds the host's init for containers. It runs with the files of any image, so it has to be whole by
// itself.
func initProgram() (string, error) {
	refused := ""
	for _, name := range initNames {
		found, err := exec.LookPath(name)
		if err == nil {
			found, err = filepath.EvalSymlinks(found)
		}
		if err != nil {
			continue
		}
		switch static, err := isStatic(found); {
		case err == nil && static:
			return found, nil
		default:
			refused = ", and " + found + " is not statically linked"
		}
	}
	return "", invalid("init", "true", "the host has no init for containers: docker-init, catatonit or tini"+refused,
		"install tini or catatonit, or leave out --init")
}

// isStatic reports whether a program needs no other to be loaded.
func isStatic(path string) (static bool, err error) {
	f, err := elf.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return false, nil
		}
	}
	return true, nil
}

// withInit has an init run what a container runs.
func withInit(s Spec, b *shim.Bundle) error {
	if !wantsInit(s) {
		return nil
	}
	program, err := initProgram()
	if err != nil {
		return err
	}
	b.Binds = append(b.Binds, shim.Bind{Source: program, Target: initTarget, ReadOnly: true})
	b.Process.Args = append([]string{initTarget, "--"}, b.Process.Args...)
	return nil
}

// wantsInit: where the processes are another's, that one has the first of them.
func wantsInit(s Spec) bool { return s.Init && s.PidMode == "" }
