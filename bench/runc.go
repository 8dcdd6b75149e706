package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// runcRunner runs `true` on the root filesystem with what `runc spec` proposes; with filter,
// also under the seccomp filter that vethloom and docker use, which takes its time to compile.
func runcRunner(ctx context.Context, m *machine, filter bool) (runner, error) {
	name := "runc run"
	if filter {
		name = "runc run, with the seccomp filter"
	}
	bundle := filepath.Join(m.dir, fmt.Sprintf("bundle-%t", filter))
	if err := os.MkdirAll(bundle, 0o755); err != nil {
		return runner{}, fmt.Errorf("make a bundle: %w", err)
	}
	if _, err := command(ctx, "runc", "spec", "--bundle", bundle); err != nil {
		return runner{}, err
	}
	if err := adapt(filepath.Join(bundle, "config.json"), m.rootfs, filter); err != nil {
		return runner{}, fmt.Errorf("make a bundle: %w", err)
	}
	return runner{name, func(ctx context.Context, round int) error {
		_, err := command(ctx, "runc", "--root", "/run/runc-bench", "run", "--bundle", bundle,
			fmt.Sprintf("vlbench%d-%t%d", os.Getpid(), filter, round))
		return err
	}}, nil
}

// adapt rewrites the proposed configuration: no terminal, `true`, and our root filesystem.
func adapt(file, rootfs string, filter bool) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var spec specs.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	spec.Process.Terminal, spec.Process.Args, spec.Root.Path = false, []string{"true"}, rootfs
	if filter {
		if spec.Linux.Seccomp, err = seccomp.GetDefaultProfile(&spec); err != nil {
			return fmt.Errorf("the default seccomp profile: %w", err)
		}
	}
	if text, err = json.Marshal(spec); err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o644)
}
