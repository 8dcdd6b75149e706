package worker

import (
	"io"
	"time"
)

// patience is how long files may block who reads or writes them: a FIFO that a container has put in the place of a
// file does, for example, or a file system that does not answer. Nothing that goes on takes that long.
const patience = 2 * time.Minute

// watch ends what files block.
type watch struct {
	most  time.Duration
	timer *time.Timer
}

// newWatch calls a function when files block for too long.
func newWatch(most time.Duration, tooLong func()) *watch {
	w := &watch{most: most, timer: time.AfterFunc(most, tooLong)}
	w.timer.Stop()
	return w
}

// whileRead watches reads. Between them it is a client that takes its time.
func (w *watch) whileRead(r io.Reader) io.Reader { return guarded{r, w.begin, w.end} }

// betweenReads watches what goes on between reads, which wait for a client.
func (w *watch) betweenReads(r io.Reader) io.Reader { return guarded{r, w.end, w.begin} }

func (w *watch) begin() { w.timer.Reset(w.most) }
func (w *watch) end()   { w.timer.Stop() }

type guarded struct {
	io.Reader
	before, after func()
}

func (g guarded) Read(b []byte) (int, error) {
	g.before()
	defer g.after()
	return g.Reader.Read(b)
}
