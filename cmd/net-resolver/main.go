// net-resolver answers containers' questions about names. netd starts it; it is not for people.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"os/user"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/resolver"
	"github.com/vethloom/vethloom/internal/resolver/control"
)

// account is the user that it runs as where there is one of this name; else it is nobody.
const (
	account  = "vethloom-resolver"
	nobodyID = 65534
)

// maxLog bounds the log, in bytes.
const maxLog = 1 << 20

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "net-resolver:", err)
		os.Exit(1)
	}
}

type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(v string) error {
	*l = append(*l, v)
	return nil
}

func run(args []string) error {
	var cfg resolver.Config
	flags := flag.NewFlagSet("net-resolver", flag.ContinueOnError)
	place := flags.String("place", "", "the control socket")
	flags.StringVar(&cfg.Build, "build", "", "version of the netd that starts it")
	flags.Var((*list)(&cfg.Resolv), "resolv", "a file that names the host's servers; may be given several times")
	wait := flags.Bool("wait", false, "wait until netd has noted the process")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *wait {
		if err := noted(); err != nil {
			return err
		}
	}
	if *place == "" {
		return errors.New("it is started by netd: run 'net dns lookup' instead")
	}
	var err error
	if cfg.Place, err = os.OpenFile(*place, unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open the control socket's place: %w", err)
	}
	listener, err := inherited()
	if err != nil {
		return err
	}
	if err := dropPrivileges(); err != nil {
		return fmt.Errorf("give up privileges: %w", err)
	}
	debug.SetGCPercent(50) // memory counts more than the last tenth of its speed
	cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	// It goes on when netd's terminal goes.
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGPIPE, unix.SIGXFSZ)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	return resolver.New(cfg).Run(ctx, listener)
}

// noted returns once netd has noted this process.
func noted() error {
	f := os.NewFile(control.WaitFD, "wait")
	defer f.Close()
	if _, err := io.ReadFull(f, make([]byte, 1)); err != nil {
		return fmt.Errorf("wait for netd: %w", err)
	}
	return nil
}

func inherited() (*net.UnixListener, error) {
	f := os.NewFile(control.ListenerFD, "control")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("use the control socket: %w", err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, errors.New("use the control socket: it is no unix socket")
	}
	u.SetUnlinkOnClose(false)
	return u, nil
}

// dropPrivileges makes the process one of a user who owns nothing. What it parses from here on is hostile.
func dropPrivileges() error {
	uid, gid := nobodyID, nobodyID
	if u, err := user.Lookup(account); err == nil {
		var errs [2]error
		uid, errs[0] = strconv.Atoi(u.Uid)
		gid, errs[1] = strconv.Atoi(u.Gid)
		if err := errors.Join(errs[:]...); err != nil {
			return err
		}
	}
	// What it writes is its log, which nobody keeps short, where netd keeps its state.
	limit := unix.Rlimit{Cur: maxLog, Max: maxLog}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		return fmt.Errorf("bound the log: %w", err)
	}
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("leave all groups: %w", err)
	}
	if err := syscall.Setresgid(gid, gid, gid); err != nil {
		return fmt.Errorf("become group %d: %w", gid, err)
	}
	if err := syscall.Setresuid(uid, uid, uid); err != nil {
		return fmt.Errorf("become user %d: %w", uid, err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil { // others of this user may not look into it
		return err
	}
	return nil
}
