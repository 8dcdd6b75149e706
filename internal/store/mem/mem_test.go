package mem_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/cnm/storetest"
	"github.com/vethloom/vethloom/internal/store/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	storetest.Run(t, func(*testing.T) cnm.Store { return mem.New() })
}
