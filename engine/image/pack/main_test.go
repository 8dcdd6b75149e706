package pack_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/vethloom/vethloom/internal/kern/kerntest"
)

func TestMain(m *testing.M) {
	kerntest.MountMain(m, func(m *testing.M) { goleak.VerifyTestMain(m) })
}
