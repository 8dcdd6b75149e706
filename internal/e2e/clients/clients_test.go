package clients

import (
	"path/filepath"
	"testing"

	"github.com/vethloom/vethloom/internal/e2e/dockerdtest"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
)

// Clients of the distribution: docker 20.10, docker-compose 1.29, docker-py 5.
func TestClientsOfTheDistribution(t *testing.T) {
	clients := programs(t, map[string]string{"docker": "/usr/bin/docker", "docker-compose": "/usr/bin/docker-compose",
		"python3": "/usr/bin/python3"})
	judged(t, clients, func(c dockerdtest.Config) dockerdtest.Config { return c },
		"docker", "compose1", "python")
}

// Clients of today, and an engine of today to compare with.
func TestClientsOfToday(t *testing.T) {
	built := dockerdtest.Built(t, "clients")
	clients := programs(t, map[string]string{"docker": filepath.Join(built, "docker"),
		"docker-compose": filepath.Join(built, "docker-compose")})
	judged(t, clients, func(c dockerdtest.Config) dockerdtest.Config {
		c.Args = append(c.Args, "--userland-proxy=false") // the distribution's does not fit
		return c.Current(t)
	}, "today", "compose2")
}

// judged runs scripts against a real dockerd and against netd. Each script has a table NAME.differs beside it.
func judged(t *testing.T, clients string, of func(dockerdtest.Config) dockerdtest.Config, scripts ...string) {
	env := kerntest.New(t)
	real, ours := dockerd(t, env, clients, of), netd(t, env, clients)
	for _, name := range scripts {
		t.Run(name, func(t *testing.T) {
			judge(t, compare(script(t, name), real, ours), differences(t, name+".differs"))
		})
	}
}
