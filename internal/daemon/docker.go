package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/vethloom/vethloom/internal/rootsocket"
	"github.com/vethloom/vethloom/plugin/docker"
	"github.com/vethloom/vethloom/plugin/docker/relay"
)

// DockerSocket is where dockerd looks for a plugin of our name.
const DockerSocket = "/run/docker/plugins/vethloom.sock"

// dockerSocket is where dockerd is answered, "" for nowhere. By itself it is only where there is a dockerd, which may
// start later, and only for the netd with the usual run directory: several on one machine would take each other's.
func (c Config) dockerSocket() string {
	switch {
	case c.DockerPlugin == "off":
		return ""
	case c.DockerPlugin != "":
		return c.DockerPlugin
	}
	_, runs := os.Stat(filepath.Dir(filepath.Dir(DockerSocket)))
	_, installed := exec.LookPath("dockerd")
	if c.Run != Defaults().Run || runs != nil && installed != nil {
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

// dockerTrouble is what is wrong between netd and dockerd, or nil.
func dockerTrouble(d *daemon) error {
	err := d.follower.Trouble()
	if d.relay != nil {
		err = errors.Join(d.relay.Trouble(), err)
	}
	return err
}

// openDocker has dockerd answered before anything that can wait: it waits for a plugin for ever.
func openDocker(d *daemon) error {
	d.docker = docker.New(d.log)
	path := d.cfg.dockerSocket()
	if path == "" {
		return nil
	}
	inner := filepath.Join(d.cfg.Run, "relay.sock")
	l, err := rootsocket.Listen(inner)
	if err != nil {
		return fmt.Errorf("%s: %w", inner, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.docker.Serve(ctx, rootsocket.Only(l)) }()
	d.closing(func() error {
		stop()
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	keeper, err := relay.Open(relay.Config{Path: path, Netd: inner, Program: d.cfg.Relay, Log: d.log})
	if err != nil {
		return fmt.Errorf("--docker-plugin %s: %w", path, err)
	}
	d.relay = keeper
	d.closing(keeper.Close)
	return nil
}
