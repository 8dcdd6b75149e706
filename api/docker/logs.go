package docker

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types"
	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/engine"
)

// logTime is how long a client may take for a part of a log.
const logTime = 10 * time.Minute

func (s containerService) logs(w *answer, r *http.Request) error {
	out, err := flag(r, "stdout"), flag(r, "stderr")
	if !out && !err {
		return &refusal{status: http.StatusBadRequest,
			text: "Bad parameters: you must choose at least one stream: stdout=1 or stderr=1"}
	}
	c, failed := s.find(r.Context(), r)
	if failed != nil {
		return failed
	}
	if c.Spec.LogDriver == engine.LogNone {
		return unsupported("LogConfig", engine.LogNone, "configured logging driver does not support reading",
			"make the container with another, such as "+engine.LogFiles)
	}
	req := engine.LogsRequest{Container: c.ID, Follow: flag(r, "follow"), Tail: tail(r.URL.Query().Get("tail"))}
	if req.Since, failed = moment(r, "since"); failed != nil {
		return failed
	}
	if r.URL.Query().Get("until") != "0" { // of clients that mean none
		if req.Until, failed = moment(r, "until"); failed != nil {
			return failed
		}
	}
	p := page{w: w, tty: c.Spec.TTY, follow: req.Follow}
	h := w.Header()
	h.Set("Content-Type", types.MediaTypeRawStream)
	if !p.tty && minor(r) >= multiplexedSince {
		h.Set("Content-Type", types.MediaTypeMultiplexedStream)
	}
	w.WriteHeader(http.StatusOK)
	if req.Follow {
		_ = w.control.Flush()
	}
	stamped, details := flag(r, "timestamps"), ""
	if flag(r, "details") {
		details = logDetails(c) + " "
	}
	unblock := context.AfterFunc(r.Context(), func() { _ = w.control.SetWriteDeadline(time.Now()) })
	defer unblock()
	return s.cfg.Containers.Logs(r.Context(), req, func(l engine.LogLine) error {
		if l.Stderr && !err || !l.Stderr && !out {
			return nil
		}
		line := l.Line
		if details != "" || stamped {
			head := details
			if stamped {
				head = l.Time.UTC().Format(fixedNano) + " " + details
			}
			line = append([]byte(head), line...)
		}
		return p.write(l.Stderr, line)
	})
}

// fixedNano is how Docker writes the time of a line, always of the same length.
const fixedNano = "2006-01-02T15:04:05.000000000Z07:00"

// page is an answer of lines.
type page struct {
	w           *answer
	tty, follow bool
}

func (p page) write(stderr bool, line []byte) error {
	_ = p.w.control.SetWriteDeadline(time.Now().Add(logTime))
	stream := stdcopy.Stdout
	if stderr {
		stream = stdcopy.Stderr
	}
	var err error
	if p.tty {
		_, err = p.w.Write(line)
	} else {
		_, err = writeFrame(p.w, stream, line)
	}
	if err == nil && p.follow {
		err = p.w.control.Flush()
	}
	return err
}

// logTo has lines of a log go to one of two writers, of which there may be none.
func logTo(stdout, stderr io.Writer) func(engine.LogLine) error {
	return func(l engine.LogLine) error {
		to := stdout
		if l.Stderr {
			to = stderr
		}
		if to == nil {
			return nil
		}
		_, err := to.Write(l.Line)
		return err
	}
}

// tail is how many lines are wanted: all, where that is no number.
func tail(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return -1
	}
	return n
}

// logDetails are the labels and variables that the options of the log ask for, as Docker writes them.
func logDetails(c server.ContainerView) string {
	var out []string
	add := func(name, value string) { out = append(out, url.QueryEscape(name)+"="+url.QueryEscape(value)) }
	for name := range strings.SplitSeq(c.Spec.LogOptions["labels"], ",") {
		if value, ok := c.Spec.Labels[name]; ok {
			add(name, value)
		}
	}
	for name := range strings.SplitSeq(c.Spec.LogOptions["env"], ",") {
		for _, kv := range c.Spec.Env {
			if key, value, _ := strings.Cut(kv, "="); key == name {
				add(name, value)
			}
		}
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}
