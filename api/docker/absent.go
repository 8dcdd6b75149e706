package docker

import "net/http"

// This file has what there is in Docker and not here.

// absentRoutes answer that something is not here, the way a Docker answers that has not been asked to have it.
func absentRoutes() []route {
	var out []route
	for _, path := range []string{"/nodes", "/services", "/tasks", "/secrets", "/configs"} {
		out = append(out, route{pattern: path, do: noSwarm}, route{pattern: path + "/{rest...}", do: noSwarm})
	}
	out = append(out, route{pattern: "/swarm", do: noSwarm}, route{pattern: "/swarm/{rest...}", do: noSwarm})
	noPlugins := absent("plugins of Docker's own kind are not run here",
		"netd takes network plugins whose sockets are in /run/docker/plugins")
	return append(out,
		route{pattern: "POST /swarm/init", do: makesNoSwarm}, route{pattern: "POST /swarm/join", do: makesNoSwarm},
		route{pattern: "GET /plugins", do: func(w *answer, _ *http.Request) error {
			return w.json(http.StatusOK, []string{})
		}},
		route{pattern: "GET /plugins/{name}/json", do: func(_ *answer, r *http.Request) error {
			return &refusal{status: http.StatusNotFound, text: "plugin " + r.PathValue("name") + " not found"}
		}},
		route{pattern: "/plugins/{rest...}", do: noPlugins}, route{pattern: "GET /plugins/privileges", do: noPlugins},
		route{pattern: "/containers/{id}/checkpoints", do: absent("checkpoints of containers are not made here", "")},
		route{pattern: "/containers/{id}/checkpoints/{checkpoint}",
			do: absent("checkpoints of containers are not made here", "")},
		route{pattern: "/session", do: absent("sessions with BuildKit are not held here", "build with 'net build'")},
		route{pattern: "/grpc", do: absent("sessions with BuildKit are not held here", "build with 'net build'")},
		route{pattern: "POST /build/cancel", do: absent("images are not built by way of this API", "")},
		route{pattern: "POST /build/prune", do: func(w *answer, _ *http.Request) error {
			return w.json(http.StatusOK, map[string]any{"CachesDeleted": nil, "SpaceReclaimed": 0})
		}},
	)
}

// noSwarm is the text that Docker's own command looks for, to leave swarm out of what it does.
func noSwarm(*answer, *http.Request) error {
	return &refusal{status: http.StatusServiceUnavailable, text: "This node is not a swarm manager. Use \"docker " +
		"swarm init\" or \"docker swarm join\" to connect this node to swarm and try again."}
}

func makesNoSwarm(*answer, *http.Request) error {
	return unsupported("swarm", "", "netd makes and joins no swarm",
		"give several netd one etcd: their networks reach across hosts (net node ls)")
}

func absent(reason, remedy string) handler {
	return func(_ *answer, r *http.Request) error {
		return unsupported("path", r.URL.Path, reason, remedy)
	}
}
