package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
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
		all := &decoders{wide: newWideWindows()}
		open := func(ctx context.Context, window int) (io.ReadCloser, error) {
			return openZstd(ctx, bufio.NewReader(bytes.NewReader(compressed(t, "text", window))), all)
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
	d, err := openZstd(t.Context(), bufio.NewReader(bytes.NewReader(two)), &decoders{wide: newWideWindows()})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if got, err := io.ReadAll(d); !errors.Is(err, zstd.ErrWindowSizeExceeded) || string(got) != "one " {
		t.Errorf("a frame with a larger window than the first: %q, %v", got, err)
	}
}
