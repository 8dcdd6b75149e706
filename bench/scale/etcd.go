package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vethloom/vethloom/internal/etcd/embedded"
)

// etcdVariable has a copy of this program be an etcd in the directory that it names.
const etcdVariable = "VETHLOOM_SCALE_ETCD"

func endpoint(dir string) string { return "unix://" + filepath.Join(dir, "etcd.sock") }

// serveEtcd runs until stdin ends, which it does with the process that measures.
func serveEtcd(dir string) error {
	s, err := embedded.Start(context.Background(), embedded.Config{Dir: filepath.Join(dir, "etcd"),
		ClientURLs: []string{endpoint(dir)}})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, s.Close())
}

// server is an etcd in a process of its own, so that what it costs is told apart.
type server struct {
	cmd *exec.Cmd
	in  io.Closer
	dir string
}

func startEtcd(dir string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), etcdVariable+"="+dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("ready"))); err != nil {
		in.Close()
		return nil, errors.Join(fmt.Errorf("start etcd: %w", err), cmd.Wait())
	}
	return &server{cmd, in, dir}, nil
}

func (s *server) stop() error {
	s.in.Close()
	return s.cmd.Wait()
}

// cpu is the processor time that etcd has had. In /proc/PID/stat (proc_pid_stat(5)) it is counted in hundredths of
// a second.
func (s *server) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	var sum int64
	for _, f := range fields[11:13] {
		n, _ := strconv.ParseInt(f, 10, 64)
		sum += n
	}
	return time.Duration(sum) * 10 * time.Millisecond
}
