package server

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
)

type metrics struct {
	calls   *prometheus.CounterVec
	latency *prometheus.HistogramVec
}

// newMetrics registers the API's metrics; without a registry they are kept for nobody.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	labels := []string{"method", "code"}
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vethloom_api_calls_total",
			Help: "API calls that have ended, by method and gRPC code.",
		}, labels),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "vethloom_api_call_seconds",
			Help:    "Duration of API calls, streams until their end, by method and gRPC code.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2.5, 12), // 0.5 ms to 12 s
		}, labels),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.calls, m.latency} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register API metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) ended(method string, code codes.Code, d time.Duration) {
	m.calls.WithLabelValues(method, code.String()).Inc()
	m.latency.WithLabelValues(method, code.String()).Observe(d.Seconds())
}
