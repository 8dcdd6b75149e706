package cli

import (
	"io"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"github.com/vethloom/vethloom/internal/cli/session"
)

// progress shows on standard error how far r has been read, when that is a
// terminal. done ends the display.
func (a *App) progress(what string, r io.Reader, size int64) (_ io.Reader, done func(ok bool)) {
	if _, ok := session.Terminal(a.Err); !ok {
		return r, func(bool) {}
	}
	p := mpb.New(mpb.WithOutput(a.Err), mpb.WithWidth(40))
	bar := p.New(size, mpb.BarStyle(),
		mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name(what+" ")),
		mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f"), decor.Name("  "),
			decor.AverageSpeed(decor.SizeB1024(0), "% .1f")),
	)
	return bar.ProxyReader(r), func(ok bool) {
		if ok {
			bar.SetTotal(-1, true)
		} else {
			bar.Abort(true)
		}
		p.Wait()
	}
}

// writing shows on standard error how much has been written to w, when that is a terminal. done ends the display.
func (a *App) writing(what string, w io.Writer) (_ io.Writer, done func()) {
	if _, ok := session.Terminal(a.Err); !ok {
		return w, func() {}
	}
	p := mpb.New(mpb.WithOutput(a.Err))
	bar := p.New(0, mpb.NopStyle(), mpb.PrependDecorators(decor.Name(what+" "), decor.CurrentKibiByte("% .1f"),
		decor.Name("  "), decor.AverageSpeed(decor.SizeB1024(0), "% .1f")))
	return bar.ProxyWriter(w), func() {
		bar.Abort(true)
		p.Wait()
	}
}
