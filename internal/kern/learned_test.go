package kern_test

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// A port that a bridge learns from fills its table to a limit.
func TestABridgeLearnsToALimit(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	want := plan.Union(network(), endpoint())
	converge(t, k, want)
	if err := env.Do(k.NetNSPath("sb"), func() error { return flood(10000) }); err != nil {
		t.Fatal(err)
	}
	most := 8192
	var major, minor int
	if _, err := fmt.Sscanf(env.Run("uname", "-r"), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	if major < 6 || major == 6 && minor < 7 {
		most = 10000 // the kernel has no limit
	}
	if n := strings.Count(env.Sh("bridge fdb show br vlb-1 dynamic"), "\n"); n < 8000 || n > most {
		t.Errorf("%d addresses learned", n)
	}
	converge(t, k, plan.State{})
}

// flood sends a frame to nobody from each of n addresses.
func flood(n int) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	link, err := unix.NewIfreq("eth0")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, link); err != nil {
		return err
	}
	frame := make([]byte, 60)
	copy(frame, []byte{2, 0, 0, 0, 0, 99, 2, 1, 0, 0, 0, 0, 0x88, 0xb5}) // IEEE 802 local experimental
	for i := range n {
		binary.BigEndian.PutUint32(frame[8:], uint32(i))
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: int(link.Uint32())}); err != nil {
			return err
		}
	}
	return nil
}
