package docker

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/moby/moby/api/types/common"
)

// answer is the answer to a request, and what has become of it.
type answer struct {
	http.ResponseWriter
	control *http.ResponseController
	begun   bool // something was written, or the connection was taken over
	cut     bool // it is not whole, and its end has to show that
	status  int
	err     error // what the handler has returned
}

// Unwrap lets [http.ResponseController] at what is below.
func (w *answer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements [http.ResponseWriter].
func (w *answer) WriteHeader(status int) {
	if !w.begun {
		w.begun, w.status = true, status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements [http.ResponseWriter].
func (w *answer) Write(b []byte) (int, error) {
	if !w.begun {
		w.begun, w.status = true, http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Hijack implements [http.Hijacker]: the connection is the caller's, who closes it before the handler returns.
func (w *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, buffered, err := w.control.Hijack()
	if err != nil {
		return nil, nil, fmt.Errorf("take over the connection: %w", err)
	}
	w.begun, w.status = true, http.StatusSwitchingProtocols
	return c, buffered, nil
}

// deadlines bound reading and writing; the zero time is none. A connection without deadlines has none.
func (w *answer) deadlines(read, write time.Time) {
	_ = w.control.SetReadDeadline(read)
	_ = w.control.SetWriteDeadline(write)
}

// json answers with one value. An error of it is that the client is not there any more.
func (w *answer) json(status int, v any) error {
	data, err := encode(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_ = w.control.SetWriteDeadline(time.Now().Add(answerTime))
	w.WriteHeader(status)
	_, err = w.Write(data)
	return err
}

// encode ends in a line feed. It leaves < and > as they are: people see them in what 'docker inspect' prints.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("put the answer together: %w", err)
	}
	return b.Bytes(), nil
}

// empty answers with a status alone.
func (w *answer) empty(status int) error {
	w.WriteHeader(status)
	return nil
}

// fail answers with an error.
func (w *answer) fail(err error) {
	status := statusOf(err)
	if status == http.StatusNotModified {
		w.WriteHeader(status) // has no body
		return
	}
	_ = w.json(status, common.ErrorResponse{Message: wordsOf(err)})
}

// lines is a stream of JSON values, as Docker's clients read progress and events.
type lines struct{ w *answer }

// streamTime is how long a client may take for what was sent before, on a stream.
const streamTime = time.Minute

// open begins the stream, before there is something to send.
func (l lines) open() error {
	l.w.Header().Set("Content-Type", "application/json")
	_ = l.w.control.SetWriteDeadline(time.Now().Add(streamTime))
	l.w.WriteHeader(http.StatusOK)
	return l.w.control.Flush()
}

// send sends a value now.
func (l lines) send(v any) error {
	data, err := encode(v)
	if err != nil {
		return err
	}
	if !l.w.begun {
		if err := l.open(); err != nil {
			return err
		}
	}
	_ = l.w.control.SetWriteDeadline(time.Now().Add(streamTime))
	if _, err := l.w.Write(data); err != nil {
		return err
	}
	return l.w.control.Flush()
}
