package daemon

import (
	"context"

	"github.com/vethloom/vethloom/api/server"
)

func (d *daemon) examine(context.Context) []server.Finding { return nil }
