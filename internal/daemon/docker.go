package daemon

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"

	"github.com/vethloom/vethloom/plugin/docker"
)

// DockerSocket is where dockerd looks for a plugin of our name.
const DockerSocket = "/run/docker/plugins/vethloom.sock"

// dockerSocket is where dockerd is answered, "" for nowhere. By itself it is only where Docker is, and only for
// the netd with the usual run directory: several on one machine would take each other's.
func (c Config) dockerSocket() string {
	switch {
	case c.DockerPlugin == "off":
		return ""
	case c.DockerPlugin != "":
		return c.DockerPlugin
	}
	if _, err := os.Stat(filepath.Dir(filepath.Dir(DockerSocket))); err != nil || c.Run != Defaults().Run {
		return ""
	}
	return DockerSocket
}

func dockerBackend(d *daemon) docker.Backend {
	return docker.Backend{Controller: d.ctrl, Render: d.render, Store: d.records}
}

// followerOf follows the dockerd that was named, if one was.
func followerOf(d *daemon) (*docker.Follower, error) {
	var engine docker.Engine
	if d.cfg.Docker != "" {
		var err error
		if engine, err = docker.Dial(d.cfg.Docker); err != nil {
			return nil, err
		}
	}
	return docker.NewFollower(dockerBackend(d), engine, d.log), nil
}

// openDocker makes the socket before anything that can wait: dockerd waits for a plugin for ever.
func openDocker(d *daemon) (err error) {
	d.docker = docker.New(d.log)
	path := d.cfg.dockerSocket()
	if path == "" {
		return nil
	}
	if d.dockerSocket, err = docker.Listen(path); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.docker.Serve(ctx, d.dockerSocket) }()
	d.closing(func() error {
		stop()
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	return nil
}
