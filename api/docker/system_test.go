package docker_test

import (
	"testing"

	"github.com/moby/moby/client"
	"github.com/vethloom/vethloom/api/docker"
	"github.com/vethloom/vethloom/api/server/fake"
)

func TestVersions(t *testing.T) {
	c, _ := serve(t, fake.New())
	p, err := c.Ping(t.Context(), client.PingOptions{NegotiateAPIVersion: true})
	if err != nil || p.APIVersion != docker.MaxVersion || p.OSType != "linux" {
		t.Errorf("%+v, %v", p, err)
	}
	v, err := c.ServerVersion(t.Context(), client.ServerVersionOptions{})
	if err != nil || v.Version != "1.0" || v.MinAPIVersion != docker.MinVersion {
		t.Errorf("%+v, %v", v, err)
	}
	i, err := c.Info(t.Context(), client.InfoOptions{})
	if err != nil || i.Info.ID != "one" || i.Info.Images != 1 || i.Info.NCPU == 0 || i.Info.MemTotal == 0 {
		t.Errorf("%+v, %v", i, err)
	}
}
