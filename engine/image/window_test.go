package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"runtime/debug"
	"testing"
	"testing/synctest"

	"github.com/klauspost/compress/zstd"
)

// compressed is a text in a frame with a certain window, in bytes.
func compressed(t *testing.T, text string, window int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithWindowSize(window), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	// Without a flush the frame has its own length as its window.
	for _, do := range []func() error{
		func() error { _, err := io.WriteString(w, text); return err }, w.Flush, w.Close} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// TestWideWindowsTakeTurns has two streams with the largest window: the second starts when the first is closed, and one
// with the usual window waits for neither.
func TestWideWindowsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newDecoders(newWideWindows())
		open := func(ctx context.Context, window int) (io.ReadCloser, error) {
			return openZstd(ctx, bufio.NewReader(bytes.NewReader(compressed(t, "text", window))), &all)
		}
		first, err := open(t.Context(), zstdWindow)
		if err != nil {
			t.Fatal(err)
		}
		second := make(chan error)
		go func() {
			d, err := open(t.Context(), zstdWindow)
			if err == nil {
				err = d.Close()
			}
			second <- err
		}()
		synctest.Wait()
		select {
		case err := <-second:
			t.Fatalf("the second did not wait: %v", err)
		default:
		}
		usual, err := open(t.Context(), usualWindow)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := open(ctx, zstdWindow); !errors.Is(err, context.Canceled) {
			t.Errorf("waiting ends with %v, not with the context", err)
		}
		for _, d := range []io.ReadCloser{usual, first} {
			got, err := io.ReadAll(d)
			if err = errors.Join(err, d.Close()); err != nil || string(got) != "text" {
				t.Errorf("%q, %v", got, err)
			}
		}
		if err := <-second; err != nil {
			t.Error(err)
		}
	})
}

func TestWindowGrows(t *testing.T) {
	two := append(compressed(t, "one ", usualWindow), compressed(t, "two", 2*usualWindow)...)
	all := newDecoders(newWideWindows())
	d, err := openZstd(t.Context(), bufio.NewReader(bytes.NewReader(two)), &all)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if got, err := io.ReadAll(d); !errors.Is(err, zstd.ErrWindowSizeExceeded) || string(got) != "one " {
		t.Errorf("a frame with a larger window than the first: %q, %v", got, err)
	}
}

// TestUsualWindowsTakeTurns has more streams of an operation than may have a window; those of another one do not wait.
func TestUsualWindowsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wide := newWideWindows()
		one, other := newDecoders(wide), newDecoders(wide)
		frame := compressed(t, "text", usualWindow)
		open := func(all *decoders) io.ReadCloser {
			d, err := openZstd(t.Context(), bufio.NewReader(bytes.NewReader(frame)), all)
			if err != nil {
				t.Error(err)
			}
			return d
		}
		var have []io.ReadCloser
		for range usualStreams {
			have = append(have, open(&one), open(&other))
		}
		next := make(chan io.ReadCloser)
		go func() { next <- open(&one) }()
		synctest.Wait()
		select {
		case <-next:
			t.Fatal("one more did not wait")
		default:
		}
		for _, d := range have {
			d.Close()
		}
		(<-next).Close()
		if n := one.usual.made(); n != usualStreams {
			t.Errorf("%d decoders were made for %d streams", n, usualStreams+1)
		}
	})
}

func TestThrift(t *testing.T) {
	before := debug.SetGCPercent(80)
	defer debug.SetGCPercent(before)
	var c thrift
	c.begin()
	c.begin()
	c.end()
	if got := debug.SetGCPercent(frugalPercent); got != frugalPercent {
		t.Errorf("with one that goes on, the percentage is %d", got)
	}
	c.end()
	if got := debug.SetGCPercent(before); got != 80 {
		t.Errorf("after all, the percentage is %d", got)
	}
}
