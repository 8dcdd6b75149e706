package daemon

import (
	"context"
	"os/exec"
	"path/filepath"

	"github.com/vethloom/vethloom/backend/udp"
	"github.com/vethloom/vethloom/internal/handover"
)

// openTunnels goes on with the userspace tunnels of an earlier netd, before anything that can wait: packets are waiting
// for it.
func (d *daemon) openTunnels() {
	keeper := handover.New(handover.Config{Path: filepath.Join(d.cfg.Run, "tunnels.sock"), Log: d.log,
		Command: func(path string) *exec.Cmd {
			cmd := exec.Command(d.cfg.Shim, "hold", path)
			cmd.Env = []string{"GOMAXPROCS=1", "GOTRACEBACK=single"}
			return cmd
		}})
	d.closing(keeper.Close)
	d.tunnels = udp.New(udp.Config{Log: d.log, Keeper: keeper, Died: func(string, error) {
		select {
		case d.lost <- struct{}{}:
		default: // a pass is to come
		}
	}})
	d.closing(func() error { d.tunnels.Shutdown(); return nil })
	d.tunnels.Resume()
}

// watchTunnels has those made again that have ended.
func watchTunnels(ctx context.Context, d *daemon) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.lost:
			d.rec.Resync()
		}
	}
}
