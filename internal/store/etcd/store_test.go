package etcd_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/cnm/storetest"
	"github.com/vethloom/vethloom/internal/etcd/embedded"
	"github.com/vethloom/vethloom/internal/store/etcd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func server(t *testing.T) *embedded.Server {
	t.Helper()
	s, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) cnm.Store {
		s := etcd.New(server(t).Client(), "/vethloom")
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s
	})
}
