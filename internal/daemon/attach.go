package daemon

import (
	"path/filepath"

	"github.com/vethloom/vethloom/plugin/attach"
	attachments "github.com/vethloom/vethloom/plugin/attach/server"
)

// attachSocket is where programs of other engines ask for attachments.
func (c Config) attachSocket() string { return filepath.Join(c.Run, filepath.Base(attach.Socket)) }

// attachmentsOf is what answers them.
func attachmentsOf(d *daemon) *attachments.Server {
	return attachments.New(attachments.Config{Controller: d.ctrl, Kernel: d.kernel, Render: d.render,
		Resync: d.rec.Resync, Settled: d.names.Settled, Later: attach.LaterDir(d.cfg.attachSocket()), Log: d.log})
}
