package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// probePort is where the probes' servers listen, each in a namespace of its own.
const probePort = 5202

// patience is how long a probe waits for a single packet.
const patience = 100 * time.Millisecond

// inside runs f on a thread in a network namespace. The thread ends with f: it is never unlocked.
func inside(path string, f func() error) <-chan error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		file, err := os.Open(path)
		if err != nil {
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		defer file.Close()
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network namespace %s: %w", path, err)
			return
		}
		done <- f()
	}()
	return done
}

// udpSocket is blocking, so that a thread waits in the kernel and not in the scheduler.
func udpSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make a UDP socket: %w", err)
	}
	wait := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return -1, errors.Join(fmt.Errorf("bound the wait for packets: %w", err), unix.Close(fd))
	}
	// As much as the kernel gives without asking; loss is then that of the way, and of a slow receiver.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<21); err != nil {
		return -1, errors.Join(fmt.Errorf("ask for a receive buffer: %w", err), unix.Close(fd))
	}
	return fd, nil
}

func sockaddr(addr string) (*unix.SockaddrInet4, error) {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return nil, fmt.Errorf("address of the other end: %w", err)
	}
	return &unix.SockaddrInet4{Port: probePort, Addr: a.As4()}, nil
}

// flow is what became of a flood.
type flow struct {
	sent, received int
	took           time.Duration // of sending
}

// flood sends packets of 64 bytes for a while as fast as one thread can, and counts those that arrive.
func flood(l link, length time.Duration) (flow, error) {
	to, err := sockaddr(l.addr)
	if err != nil {
		return flow{}, err
	}
	var f flow
	var over atomic.Bool
	listening := make(chan struct{})
	server := inside(l.server, func() error {
		fd, err := udpSocket()
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, to); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		close(listening)
		f.received, err = count(fd, &over)
		return err
	})
	select {
	case <-listening:
	case err := <-server:
		return flow{}, err
	}
	err = <-inside(l.client, func() error {
		fd, err := udpSocket()
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, to); err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		f.sent, f.took, err = send(fd, length)
		return err
	})
	over.Store(true)
	return f, errors.Join(err, <-server)
}

// count counts packets until the flood is over and none has come for a while.
func count(fd int, over *atomic.Bool) (int, error) {
	var buf [2048]byte
	for n := 0; ; {
		_, err := unix.Read(fd, buf[:])
		switch {
		case err == nil:
			n++
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			if over.Load() {
				return n, nil
			}
		default:
			return n, fmt.Errorf("receive: %w", err)
		}
	}
}

func send(fd int, length time.Duration) (int, time.Duration, error) {
	var packet [64]byte
	start, n := time.Now(), 0
	for {
		for range 32 {
			_, err := unix.Write(fd, packet[:])
			switch {
			case err == nil:
				n++
			case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			default:
				return n, time.Since(start), fmt.Errorf("send: %w", err)
			}
		}
		if took := time.Since(start); took > length {
			return n, took, nil
		}
	}
}

// pingPong sends 64 bytes back and forth over TCP, and gives half the median round trip.
func pingPong(l link, length time.Duration) (time.Duration, error) {
	addr := net.JoinHostPort(l.addr, strconv.Itoa(probePort))
	listening := make(chan struct{})
	server := inside(l.server, func() error {
		listener, err := net.Listen("tcp4", addr)
		if err != nil {
			return err
		}
		defer listener.Close()
		close(listening)
		if err := listener.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		return onSocket(conn, func(fd int) error {
			var ball [64]byte
			for readAll(fd, ball[:]) == nil {
				if _, err := unix.Write(fd, ball[:]); err != nil {
					return fmt.Errorf("answer: %w", err)
				}
			}
			return nil // the client has hung up
		})
	})
	select {
	case <-listening:
	case err := <-server:
		return 0, err
	}
	var trips []time.Duration
	err := <-inside(l.client, func() error {
		conn, err := net.DialTimeout("tcp4", addr, 5*time.Second)
		if err != nil {
			return err
		}
		return onSocket(conn, func(fd int) error {
			trips, err = play(fd, length)
			return err
		})
	})
	if err := errors.Join(err, <-server); err != nil {
		return 0, err
	}
	slices.Sort(trips)
	return trips[len(trips)/2] / 2, nil
}

// onSocket lends out a connection's socket, blocking, and closes it.
func onSocket(conn net.Conn, f func(fd int) error) error {
	file, err := conn.(*net.TCPConn).File()
	if err := errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("take the socket: %w", err)
	}
	defer file.Close()
	fd := int(file.Fd()) // blocking from now on
	wait := unix.NsecToTimeval((2 * time.Second).Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return fmt.Errorf("bound the wait: %w", err)
	}
	return f(fd)
}

func play(fd int, length time.Duration) ([]time.Duration, error) {
	var ball [64]byte
	trips := make([]time.Duration, 0, 1<<16)
	for start := time.Now(); time.Since(start) < length || len(trips) == 0; {
		mark := time.Now()
		if _, err := unix.Write(fd, ball[:]); err != nil {
			return trips, fmt.Errorf("serve: %w", err)
		}
		if err := readAll(fd, ball[:]); err != nil {
			return trips, fmt.Errorf("wait for the answer: %w", err)
		}
		trips = append(trips, time.Since(mark))
	}
	return trips, nil
}

func readAll(fd int, p []byte) error {
	for len(p) > 0 {
		n, err := unix.Read(fd, p)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			return unix.ECONNRESET
		default:
			p = p[n:]
		}
	}
	return nil
}

// userHz is the unit of processor times in /proc on every architecture of Linux that Go knows.
const userHz = 100

// processTime is what processes have used of the processors so far, see proc_pid_stat(5).
func processTime(pids []int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, fmt.Errorf("read a daemon's processor time: %w", err)
		}
		took, err := parseProcessTime(string(b))
		if err != nil {
			return 0, fmt.Errorf("read the processor time of process %d: %w", pid, err)
		}
		sum += took
	}
	return sum, nil
}

func parseProcessTime(stat string) (time.Duration, error) {
	// The name in parentheses may hold anything; the state follows the last of them.
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(f) < 13 {
		return 0, fmt.Errorf("%d fields after the name, want at least 13", len(f))
	}
	var ticks uint64
	for _, s := range f[11:13] { // utime, stime
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / userHz, nil
}
