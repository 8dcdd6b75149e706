package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/rootsocket"
)

// Place tells a socket's file from another one of that path.
type Place struct{ Dev, Ino uint64 }

func (p Place) String() string { return fmt.Sprintf("%d:%d", p.Dev, p.Ino) }

// ParsePlace reads what String has written.
func ParsePlace(text string) (p Place, err error) {
	dev, ino, _ := strings.Cut(text, ":")
	p.Dev, err = strconv.ParseUint(dev, 10, 64)
	if err == nil {
		p.Ino, err = strconv.ParseUint(ino, 10, 64)
	}
	return p, err
}

func placeOf(path string) (Place, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return Place{}, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	return Place{Dev: st.Dev, Ino: st.Ino}, nil
}

// bind makes the socket and puts it in the place of an earlier one's: whoever has the place is asked, and who has lost
// it ends.
func bind(path string) (*net.UnixListener, Place, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, Place{}, err
	}
	next := path + ".new"
	l, err := rootsocket.Listen(next)
	if err != nil {
		return nil, Place{}, err
	}
	l.SetUnlinkOnClose(false)
	place, err := placeOf(next)
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		return nil, Place{}, errors.Join(err, l.Close(), os.Remove(next))
	}
	return l, place, nil
}

// lookTime is between two looks at who has the place.
const lookTime = time.Second

// Hold ends the context that it returns when another socket is at the path, or none.
func Hold(ctx context.Context, path string, place Place) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		look := time.NewTicker(lookTime)
		defer look.Stop()
		for ctx.Err() == nil {
			if now, err := placeOf(path); err != nil || now != place {
				cancel()
			}
			select {
			case <-ctx.Done():
			case <-look.C:
			}
		}
	}()
	return ctx, cancel
}
