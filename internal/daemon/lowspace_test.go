package daemon

import (
	"strings"
	"testing"
)

func TestLowSpace(t *testing.T) {
	const gib = 1 << 30
	for text, want := range map[string]int64{
		"0": 0, "5GiB": 5 * gib, "5G": 5 * gib, "1000": 1000, "2MB": 2e6, "10%": 10 * gib, "2.5%": gib * 5 / 2,
		"10%,10GiB": 10 * gib, "50%,3G": 3 * gib, "0%": 0, "200G": 100 * gib,
	} {
		mark, err := lowSpace(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := mark(100 * gib); got != want {
			t.Errorf("%s of 100 GiB is %d, want %d", text, got, want)
		}
	}
	for _, text := range []string{"-1", "x", "10 %", "101%", "5Gi", "%", "NaN", "1e400", "10%,"} {
		if _, err := lowSpace(text); err == nil || !strings.Contains(err.Error(), "--image-low-space") {
			t.Errorf("%q: error %v, want one that names the flag", text, err)
		}
	}
}
