package engine

import (
	"testing"
	"time"

	"github.com/vethloom/vethloom/engine/image"
)

// What an image says about its check is as hostile as the rest of it: one without a pause between two runs would keep
// the host busy as long as the container lives.
func TestHealthCheckOfAnImageIsBounded(t *testing.T) {
	for name, text := range map[string]string{
		"negative interval":       `{"Test":["CMD","true"],"Interval":-1}`,
		"interval of nothing":     `{"Test":["CMD","true"],"Interval":1}`,
		"negative timeout":        `{"Test":["CMD","true"],"Timeout":-1}`,
		"negative start interval": `{"Test":["CMD","true"],"StartPeriod":60000000000,"StartInterval":-1}`,
		"negative retries":        `{"Test":["CMD","true"],"Retries":-1}`,
	} {
		if h := healthcheck(Spec{}, image.Image{Healthcheck: []byte(text)}); h != nil {
			t.Errorf("%s: the check is %+v, want none", name, *h)
		}
		own := Spec{Health: &Healthcheck{Test: []string{"CMD", "id"}, Retries: 2}}
		h := healthcheck(own, image.Image{Healthcheck: []byte(text)})
		if h == nil || h.Interval != 0 || h.Timeout != 0 || h.StartInterval != 0 || h.Retries != 2 {
			t.Errorf("%s: the container's own check has become %+v", name, h)
		}
	}
	good := []byte(`{"Test":["CMD","true"],"Interval":1000000000}`)
	if h := healthcheck(Spec{}, image.Image{Healthcheck: good}); h == nil || h.Interval != time.Second {
		t.Errorf("of an image with a sound check: %+v", h)
	}
}
