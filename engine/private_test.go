package engine_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vethloom/vethloom/engine"
)

// What a container left behind, set-user-ID programs among it, is out of reach of the host's users.
func TestNoUserOfTheHostReachesWhatContainersWrote(t *testing.T) {
	w := newWorld(t)
	c := w.start(engine.Spec{Command: []string{"sleep", "1000"},
		Mounts: []engine.Mount{{Source: "shared", Target: "/data", Volume: true}}})
	leave := "for f in /etc/hosts /etc/hostname /etc/resolv.conf /data/tool /tool; do " +
		"cat /bin/busybox > $f; chmod 4755 $f; done"
	if got := w.exec(c.ID, sh(leave)...); got.Code != 0 {
		t.Fatalf("%+v", got)
	}
	var found []string
	err := filepath.Walk(w.dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() && info.Mode()&os.ModeSetuid != 0 {
			found = append(found, path)
		}
		return err
	})
	if err != nil || len(found) < 4 {
		t.Fatalf("set-user-ID files on the host: %v, %v", found, err)
	}
	for _, path := range found {
		cmd := exec.Command(path, "id", "-u")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Errorf("user 65534 ran %s as %s", path, out)
		}
	}
}

// In the container itself nobody gains anything by them either.
func TestGeneratedFilesAreInert(t *testing.T) {
	w := newWorld(t)
	got := w.mustRun(engine.Spec{Command: sh("cat /bin/busybox > /etc/hosts; chmod 755 /etc/hosts; /etc/hosts id"),
		Remove: true}, "")
	if got.Code != 126 {
		t.Errorf("a program in /etc/hosts ran: %+v", got)
	}
}

func TestAVolumeAtEtcHidesNothingOfOurs(t *testing.T) {
	w := newWorld(t)
	got := w.mustRun(engine.Spec{Command: sh("cat /etc/hostname; grep -c localhost /etc/hosts; test -s /etc/passwd"),
		Remove: true, Hostname: "inside", Mounts: []engine.Mount{{Source: "etc", Target: "/etc", Volume: true}}}, "")
	if got.Code != 0 || !strings.HasPrefix(got.out, "inside\n") {
		t.Errorf("%+v", got)
	}
}

// A volume that is filled by a container with a user namespace shows the image's owners to it, and
// to one without.
func TestOwnersInAFilledVolume(t *testing.T) {
	w := newWorld(t)
	for _, f := range []string{"data/seed", "data"} {
		if err := os.Chown(filepath.Join(w.images.root, f), 70, 70); err != nil {
			t.Fatal(err)
		}
	}
	for _, first := range []string{"auto", ""} {
		for _, ns := range []string{first, "auto", ""} {
			got := w.mustRun(engine.Spec{Command: sh("stat -c %u:%g /data /data/seed"), Remove: true, UserNS: ns,
				Mounts: []engine.Mount{{Source: "v" + first, Target: "/data", Volume: true}}}, "")
			if got.out != "70:70\n70:70\n" {
				t.Errorf("filled with %q, seen with %q: %+v", first, ns, got)
			}
		}
	}
}
