package engine

import (
	"cmp"
	"encoding/json"

	"github.com/vethloom/vethloom/engine/image"
)

// healthcheck is the check of a container: its own, with what that leaves open from the image's, or nil.
func healthcheck(s Spec, img image.Image) *Healthcheck {
	var of Healthcheck // the image's
	if len(img.Healthcheck) > 0 && (json.Unmarshal(img.Healthcheck, &of) != nil || checkHealth(&of) != nil) {
		of = Healthcheck{} // it is no check, or one without a pause that would keep the host busy for ever
	}
	h := of
	if own := s.Health; own != nil {
		h = *own
		if len(h.Test) == 0 {
			h.Test = of.Test
		}
		h.Interval, h.Timeout = cmp.Or(h.Interval, of.Interval), cmp.Or(h.Timeout, of.Timeout)
		h.StartPeriod = cmp.Or(h.StartPeriod, of.StartPeriod)
		h.StartInterval = cmp.Or(h.StartInterval, of.StartInterval)
		h.Retries = cmp.Or(h.Retries, of.Retries)
	}
	if len(h.Test) == 0 {
		return nil
	}
	return &h
}
