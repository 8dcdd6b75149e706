package keeper

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/rootfile"
	"github.com/vethloom/vethloom/internal/descriptor"
	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/internal/resolver/control"
	"github.com/vethloom/vethloom/plan"
)

// adopt takes up the process that an earlier netd has left, with all it has. The connection returned ends with the
// process; nil where there is none. It starts one then.
func (k *Keeper) adopt() (life *descriptor.Conn) {
	conn, hello, err := k.dial()
	if err != nil {
		return k.begin()
	}
	k.mu.Lock()
	k.conn = conn
	if err = k.takeList(); err != nil {
		k.forget()
	}
	if err == nil && (hello.Version != control.Version || hello.Build != k.cfg.Build) {
		err = errors.New("it is of another version")
		_ = k.ask(control.Request{Quit: true})
	}
	if err == nil {
		life, _, err = k.dial()
	}
	if err != nil {
		k.cfg.Log.Info("starting another net-resolver in the place of the one there is", "reason", err)
		k.drop(nil)
		k.kill()
	}
	k.mu.Unlock()
	if err != nil {
		return k.begin()
	}
	return life
}

// forget drops what a process has told of which not all can be used: the next pass makes it again. The caller holds mu.
func (k *Keeper) forget() {
	for _, s := range k.servers {
		s.Close()
	}
	clear(k.zones)
	clear(k.members)
	clear(k.servers)
}

// takeList reads what the process has. The caller holds mu.
func (k *Keeper) takeList() error {
	if err := k.conn.SetDeadline(time.Now().Add(startTime)); err != nil {
		return err
	}
	if err := k.conn.Send(control.Request{List: true}); err != nil {
		return err
	}
	for {
		var a control.Answer
		all, err := k.conn.Receive(&a)
		if err != nil {
			return err
		}
		if a.Server == nil {
			descriptor.Close(all)
		}
		switch {
		case a.Done:
			return nil
		case a.Names != nil:
			for _, z := range a.Names.Zones {
				k.zones[z.Key()] = z
			}
			for _, m := range a.Names.Members {
				k.members[m.Key()] = m
			}
		case a.Server != nil:
			socks, err := control.SocketsOf(all)
			if err != nil {
				descriptor.Close(all)
				return err
			}
			if old, ok := k.servers[a.Server.Key()]; ok {
				old.Close()
			}
			k.servers[a.Server.Key()] = served{*a.Server, socks}
		default:
			return errors.New("its answer is to another question")
		}
		if len(k.zones)+len(k.members) > maxNames || len(k.servers) > maxServers || k.conn.Received() > maxTold {
			return errors.New("it tells of more than there can be")
		}
	}
}

// dial connects to the process.
func (k *Keeper) dial() (*descriptor.Conn, control.Hello, error) {
	conn, err := descriptor.Dial(k.socket())
	if err != nil {
		return nil, control.Hello{}, err
	}
	var a control.Answer
	err = conn.SetDeadline(time.Now().Add(startTime))
	if err == nil {
		err = conn.Send(control.Request{Hello: &control.Hello{Version: control.Version, Build: k.cfg.Build}})
	}
	if err == nil {
		var all []descriptor.Descriptor
		all, err = conn.Receive(&a)
		descriptor.Close(all)
	}
	if err == nil && a.Hello == nil {
		err = errors.New("it does not say who it is")
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		conn.Close()
		return nil, control.Hello{}, fmt.Errorf("greet net-resolver: %w", err)
	}
	return conn, *a.Hello, nil
}

// begin starts a process and tells it everything. Without one it returns nil, and keeps the reason.
func (k *Keeper) begin() (life *descriptor.Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kill() // there may be one that hangs, with sockets that the next one needs
	err := k.launch()
	if err == nil {
		k.conn, _, err = k.dial()
	}
	if err == nil {
		err = k.tellAll()
	}
	if err == nil {
		life, _, err = k.dial()
	}
	if err != nil {
		err = fmt.Errorf("net-resolver does not start: %w%s", err, k.lastWords())
		k.cfg.Log.Error("nobody answers names", "error", err)
		k.drop(err)
		return nil
	}
	k.trouble = nil
	return life
}

// lastWords are what the process has written last. It may be anything.
func (k *Keeper) lastWords() string {
	b, err := rootfile.Read(k.cfg.Run, logFile, 64<<10)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if err != nil || lines[len(lines)-1] == "" {
		return ""
	}
	return fmt.Sprintf(" (it says %.300q)", lines[len(lines)-1])
}

// logFile is what the process writes about its own failures.
const logFile = "resolver.log"

// tellAll hands a new process everything. The caller holds mu.
func (k *Keeper) tellAll() error {
	var all []control.Request
	for _, z := range k.zones {
		all = append(all, control.Request{Names: &control.Names{Zones: []plan.NameZone{z}}})
	}
	members := make([]plan.NameMember, 0, len(k.members))
	for _, m := range k.members {
		members = append(members, m)
	}
	for part := range slices.Chunk(members, control.MaxObjects) {
		all = append(all, control.Request{Names: &control.Names{Members: part}})
	}
	for _, q := range all {
		if err := k.ask(q); err != nil {
			return err
		}
	}
	for _, s := range k.servers {
		if err := k.ask(control.Request{Serve: &s.NameServer}, s.All()...); err != nil {
			return err
		}
	}
	return nil
}

// launch starts the process. It has a session of its own and outlives netd.
func (k *Keeper) launch() error {
	if err := Exists(k.cfg.Path); err != nil {
		return fmt.Errorf("find %s: %w", k.cfg.Path, err)
	}
	listener, err := k.listen()
	if err != nil {
		return err
	}
	defer listener.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	logs, err := os.OpenFile(filepath.Join(k.cfg.Run, logFile), os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND,
		0o600)
	if err != nil {
		return fmt.Errorf("open the log of net-resolver: %w", err)
	}
	defer logs.Close()
	// Until its number is noted it does nothing: a netd that is killed before leaves none that nobody can end.
	wait, noted, err := os.Pipe()
	if err != nil {
		return err
	}
	defer wait.Close()
	defer noted.Close()
	args := []string{"net-resolver", "--build", k.cfg.Build, "--place", k.socket(), "--wait"}
	for _, r := range k.cfg.Resolv {
		args = append(args, "--resolv", r)
	}
	pid, err := forkWithoutPrivileges(k.cfg.Path, args, &syscall.ProcAttr{
		Dir: "/", Env: []string{"PATH=" + os.Getenv("PATH"), "GOMAXPROCS=2", "GOTRACEBACK=single"},
		Files: []uintptr{null.Fd(), null.Fd(), logs.Fd(), listener.Fd(), wait.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", k.cfg.Path, err)
	}
	go func() { // of a netd that is started again later it is no child
		var status syscall.WaitStatus
		for {
			if _, err := syscall.Wait4(pid, &status, 0, nil); !errors.Is(err, syscall.EINTR) {
				return
			}
		}
	}()
	if err := k.notePID(pid); err != nil {
		return err
	}
	_, err = noted.Write([]byte{0})
	return err
}

// forkWithoutPrivileges starts a program that no file gives privileges to, whatever it runs (PR_SET_NO_NEW_PRIVS of
// prctl(2)). That is a property of the thread, which ends here.
func forkWithoutPrivileges(path string, args []string, attr *syscall.ProcAttr) (pid int, err error) {
	err = kern.OnSpareThread(func() (err error) {
		if err = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err == nil {
			pid, err = syscall.ForkExec(path, args, attr)
		}
		return err
	})
	return pid, err
}

// listen makes the control socket, in the place of that of an earlier process. Only root may connect to it.
func (k *Keeper) listen() (*os.File, error) {
	if err := os.Remove(k.socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the control socket of net-resolver: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: k.socket(), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make the control socket of net-resolver: %w", err)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	if err := os.Chmod(k.socket(), 0o600); err != nil {
		return nil, err
	}
	return l.File()
}

// process tells a process from a later one with its number.
type process struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // field 22 of /proc/PID/stat
}

func (k *Keeper) pidFile() string { return filepath.Join(k.cfg.Run, "resolver.pid") }

func (k *Keeper) notePID(pid int) error {
	start, err := startOf(pid)
	if err != nil {
		return fmt.Errorf("look at net-resolver: %w", err)
	}
	b, err := json.Marshal(process{pid, start})
	if err != nil {
		return err
	}
	next := k.pidFile() + ".new"
	if err = os.WriteFile(next, b, 0o600); err == nil {
		err = os.Rename(next, k.pidFile())
	}
	if err != nil {
		return fmt.Errorf("note the number of net-resolver: %w", err)
	}
	return nil
}

// killTime is how long the end of a process that was killed is waited for: its sockets are free then.
const killTime = time.Second

// kill ends a process that does not answer. What it said its number is would not count: netd has noted it.
func (k *Keeper) kill() {
	b, err := os.ReadFile(k.pidFile())
	if err != nil {
		return
	}
	var p process
	if json.Unmarshal(b, &p) != nil || p.PID <= 1 {
		return
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if start, err := startOf(p.PID); err == nil && start == p.Start {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(killTime.Milliseconds()))
	}
}

// startOf is when a process was started, in ticks since the boot.
func startOf(pid int) (string, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", err
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])) // from field 3 on
	if len(fields) < 20 {
		return "", fmt.Errorf("/proc/%d/stat is cut short", pid)
	}
	return fields[19], nil
}
