package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/copying"
	"github.com/vethloom/vethloom/engine/shim"
)

// Run does one request, and returns once it is answered. The process ends when the connection does.
func Run(control net.Conn, target *os.File, in io.Reader, out io.WriteCloser) error {
	// Beside what is answered, nothing is anybody's business: names of a container's files for example.
	logrus.SetOutput(io.Discard)
	conn := shim.NewConn(control)
	f, err := conn.Read()
	if err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	var r copying.Request
	if err := json.Unmarshal(f.Payload, &r); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	go func() {
		conn.Read() // there is nothing more to come
		os.Exit(0)
	}()
	w := work{Request: r, target: target, in: in, out: out, reply: func(st copying.Stat) error {
		return conn.WriteJSON(shim.KindReply, copying.Reply{Stat: &st})
	}}
	w.watch = newWatch(patience, func() {
		conn.WriteJSON(shim.KindReply, copying.Reply{Error: &copying.Error{Code: copying.CodeInternal,
			Message: fmt.Sprintf("a file has blocked for %s", patience)}})
		os.Exit(1)
	})
	if err := w.do(); err != nil {
		return conn.WriteJSON(shim.KindReply, copying.Reply{Error: w.told(err)})
	}
	return nil
}

// work is one request.
type work struct {
	copying.Request
	target *os.File
	in     io.Reader
	out    io.WriteCloser
	reply  func(copying.Stat) error
	watch  *watch
}

func (w work) do() error {
	var packed io.Reader
	switch w.Op {
	case copying.OpStat, copying.OpOut:
	case copying.OpIn:
		var err error
		if packed, err = decompress(w.in); err != nil {
			return &copying.Error{Code: copying.CodeInvalid, Message: err.Error()}
		}
	default:
		return fmt.Errorf("%q: unknown request: net-copy is of another version than netd", w.Op)
	}
	if err := w.enter(); err != nil {
		return err
	}
	switch w.Op {
	case copying.OpStat:
		st, err := stat(w.Path)
		if err != nil {
			return err
		}
		return w.reply(st)
	case copying.OpOut:
		return w.pack()
	default:
		if err := w.unpack(packed); err != nil {
			return err
		}
		return w.reply(copying.Stat{})
	}
}

// told gives a failure its class.
func (w work) told(err error) *copying.Error {
	if e, ok := errors.AsType[*copying.Error](err); ok {
		return e
	}
	e := &copying.Error{Code: copying.CodeInternal, Message: err.Error()}
	switch {
	case errors.Is(err, errPath) && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)):
		e.Code = copying.CodeNotFound
	case errors.Is(err, unix.EROFS):
		e.Code = copying.CodeReadOnly
	}
	return e
}
