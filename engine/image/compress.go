package image

import (
	"io"

	"github.com/klauspost/compress/gzip"
)

// compressor compresses what is written to it in a goroutine of its own, so that whoever unpacks the same need not
// wait for it.
type compressor struct {
	full chan []byte
	free chan []byte
	done chan error // what became of it
	err  error      // once it is known
	over bool
}

// newCompressor writes gzip at its fastest to w. The caller closes it, whatever happens.
func newCompressor(w io.Writer) (*compressor, error) {
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	c := &compressor{full: make(chan []byte, chunkCount), free: make(chan []byte, chunkCount),
		done: make(chan error, 1)}
	for range chunkCount {
		c.free <- nil
	}
	go c.run(z)
	return c, nil
}

func (c *compressor) run(z *gzip.Writer) {
	var err error
	for b := range c.full {
		if err == nil {
			_, err = z.Write(b)
		}
		c.free <- b // never blocks: there is room for every buffer
	}
	if cerr := z.Close(); err == nil {
		err = cerr
	}
	c.done <- err
}

// Write implements [io.Writer]. An error of what is written to is told by Close.
func (c *compressor) Write(p []byte) (int, error) {
	c.full <- append((<-c.free)[:0], p...)
	return len(p), nil
}

// Close ends the goroutine, and returns its error.
func (c *compressor) Close() error {
	if !c.over {
		c.over = true
		close(c.full)
		c.err = <-c.done
	}
	return c.err
}
