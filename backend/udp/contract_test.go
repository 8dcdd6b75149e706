package udp_test

import (
	"github.com/vethloom/vethloom/backend/udp"
	"github.com/vethloom/vethloom/internal/kern"
)

var _ kern.TunnelHost = (*udp.Host)(nil)
