package flagspec

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size parses a number of bytes with an optional binary unit: b, k, m, g, t,
// in either case, also written kb or kib.
func Size(value string) (int64, error) {
	bad := fmt.Errorf("%q is not a size: use a number of bytes with a unit, for example 64m or 1.5g", value)
	s := strings.ToLower(value)
	s = strings.TrimSuffix(strings.TrimSuffix(s, "b"), "i")
	shift := 0
	if s != "" {
		if i := strings.IndexByte("kmgt", s[len(s)-1]); i >= 0 {
			shift, s = 10*(i+1), s[:len(s)-1]
		}
	}
	if shift == 0 && strings.ContainsAny(strings.ToLower(value), "i.") {
		return 0, bad // "64ib", "1.5": bytes have no parts
	}
	if s == "" || strings.Trim(s, "0123456789.") != "" {
		return 0, bad
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		if n > math.MaxInt64>>shift {
			return 0, fmt.Errorf("%q is more than 8 EiB", value)
		}
		return n << shift, nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, bad
	}
	if f *= float64(int64(1) << shift); f >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is more than 8 EiB", value)
	}
	return int64(f), nil
}

// CPUs parses a number of CPUs, such as 0.5, into billionths of one.
func CPUs(value string) (int64, error) {
	bad := fmt.Errorf("%q is not a number of CPUs: use a positive decimal number, for example 0.5 or 2", value)
	if value == "" || strings.Trim(value, "0123456789.") != "" {
		return 0, bad
	}
	f, err := strconv.ParseFloat(value, 64)
	if err != nil || f <= 0 {
		return 0, bad
	}
	if f > 8192 { // NR_CPUS of the largest distribution kernels
		return 0, fmt.Errorf("%q is more CPUs than Linux can have (8192)", value)
	}
	n := int64(math.Round(f * 1e9))
	if n == 0 {
		return 0, bad
	}
	return n, nil
}

// Time parses a moment: RFC 3339, seconds since the epoch with a fraction, or
// a duration that lies back from now ("10m").
func Time(value string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(value); err == nil {
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, value); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, value, now.Location()); err == nil {
			return t, nil
		}
	}
	sec, frac, _ := strings.Cut(value, ".")
	s, err := strconv.ParseInt(sec, 10, 64)
	ns, fracErr := strconv.ParseUint((frac + "000000000")[:9], 10, 32)
	// The year 9999 is the last that protobuf's Timestamp can hold.
	if err != nil || fracErr != nil || len(frac) > 9 || s < 0 || s > 253402300799 {
		return time.Time{}, fmt.Errorf("%q is not a time: use RFC 3339 (2026-01-31T12:00:00Z), seconds since 1970, "+
			"or a duration back from now (10m)", value)
	}
	return time.Unix(s, int64(ns)), nil
}
