package daemon

import (
	"context"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/internal/reconcile"
)

// metrics are what netd counts beside the API's calls.
type metrics struct {
	passes   *prometheus.CounterVec
	repairs  prometheus.Counter
	ops      prometheus.Counter
	duration prometheus.Histogram
}

func newMetrics(reg *prometheus.Registry, version, commit string) *metrics {
	m := &metrics{
		passes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vethloom_passes_total", Help: "Passes that compared the records with the kernel, by result.",
		}, []string{"result"}),
		repairs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "vethloom_repairs_total", Help: "Passes that repaired what someone else had changed.",
		}),
		ops: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "vethloom_operations_total", Help: "Operations that passes applied to the kernel.",
		}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "vethloom_pass_duration_seconds", Help: "Time a pass took.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 2.5, 12), // 0.25 ms to 6 s
		}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "vethloom_build_info", Help: "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": version, "commit": commit, "go": runtime.Version()},
	})
	info.Set(1)
	for _, result := range []string{"ok", "error"} {
		m.passes.WithLabelValues(result) // there from the start, with 0
	}
	reg.MustRegister(m.passes, m.repairs, m.ops, m.duration, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) passed(p reconcile.Pass) {
	result := "ok"
	if p.Err != nil {
		result = "error"
	}
	m.passes.WithLabelValues(result).Inc()
	m.ops.Add(float64(len(p.Ops)))
	m.duration.Observe(p.Duration.Seconds())
	if p.Drift {
		m.repairs.Inc()
	}
}

// inventory shows, at each scrape, how many things there are.
type inventory struct {
	status func(context.Context) (server.Status, error)
	things *prometheus.Desc
	failed *prometheus.Desc
	// what took which path
	packets, bytes *prometheus.Desc
}

func newInventory(status func(context.Context) (server.Status, error)) inventory {
	return inventory{
		status: status,
		things: prometheus.NewDesc("vethloom_objects", "Things in the records, by kind.", []string{"kind"}, nil),
		failed: prometheus.NewDesc("vethloom_owners_not_converged",
			"Owners whose kernel state is not yet as recorded.", nil, nil),
		packets: prometheus.NewDesc("vethloom_path_packets_total",
			"Packets of containers, by network, by the path they took, and why the slow one.", pathLabels(), nil),
		bytes: prometheus.NewDesc("vethloom_path_bytes_total",
			"Bytes of frames of containers, as vethloom_path_packets_total.", pathLabels(), nil),
	}
}

func pathLabels() []string { return []string{"network", "path", "reason"} }

// Describe implements [prometheus.Collector].
func (i inventory) Describe(out chan<- *prometheus.Desc) {
	out <- i.things
	out <- i.failed
	out <- i.packets
	out <- i.bytes
}

// Collect implements [prometheus.Collector].
func (i inventory) Collect(out chan<- prometheus.Metric) {
	st, err := i.status(context.Background())
	if err != nil {
		out <- prometheus.NewInvalidMetric(i.things, err)
		return
	}
	for kind, n := range map[string]int{
		"network": st.Networks, "endpoint": st.Endpoints, "sandbox": st.Sandboxes,
		"container": st.Containers, "running container": st.Running,
	} {
		out <- prometheus.MustNewConstMetric(i.things, prometheus.GaugeValue, float64(n), kind)
	}
	out <- prometheus.MustNewConstMetric(i.failed, prometheus.GaugeValue, float64(len(st.Errors)))
	for _, c := range st.FastPath.Counts {
		path := "slow"
		if c.Fast {
			path = "fast"
		}
		out <- prometheus.MustNewConstMetric(i.packets, prometheus.CounterValue, float64(c.Packets), c.Network, path,
			c.Reason)
		out <- prometheus.MustNewConstMetric(i.bytes, prometheus.CounterValue, float64(c.Bytes), c.Network, path,
			c.Reason)
	}
}
