package main

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// newNetns makes a network namespace and pins it at path, as container runtimes do.
// The thread that enters it is given up: it is locked and never unlocked.
func newNetns(path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("make network namespace %s: %w", path, err)
	}
	if err := file.Close(); err != nil {
		return fmt.Errorf("make network namespace %s: %w", path, err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("make network namespace %s: %w", path, err)
			return
		}
		done <- syscall.Mount("/proc/thread-self/ns/net", path, "", syscall.MS_BIND, "")
	}()
	return <-done
}

func dropNetns(path string) error {
	if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("unpin network namespace %s: %w", path, err)
	}
	return os.Remove(path)
}

// enter takes the goroutine into a network namespace, for good: its thread ends with it. An empty path is no other one.
func enter(path string) error {
	if path == "" {
		return nil
	}
	runtime.LockOSThread()
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	defer file.Close()
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	return nil
}
