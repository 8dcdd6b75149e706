package embedded

import (
	"testing"
	"time"
)

func TestStart(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		begin := time.Now()
		s, err := Start(t.Context(), Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("ready in %v", time.Since(begin))
		if _, err := s.Client().Put(t.Context(), "a", "b"); err != nil {
			t.Fatal(err)
		}
		begin = time.Now()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		t.Logf("closed in %v", time.Since(begin))
	}
}
