package box

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// lookupUser resolves name|uid[:group|gid] with the passwd and group files of
// the root filesystem, which is not trusted: links in it stay inside it.
func lookupUser(root, spec string) (*user.ExecUser, error) {
	if spec == "" {
		spec = "0"
	}
	passwd, err := openInRoot(root, "/etc/passwd")
	if err != nil {
		return nil, err
	}
	defer passwd.Close()
	group, err := openInRoot(root, "/etc/group")
	if err != nil {
		return nil, err
	}
	defer group.Close()
	u, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, passwd, group)
	if err != nil {
		return nil, fmt.Errorf("user %q: %w in the image: give a name of its /etc/passwd or a number", spec, err)
	}
	return u, nil
}

// openInRoot opens a regular file of a root filesystem. One that is missing
// reads as empty.
func openInRoot(root, path string) (io.ReadCloser, error) {
	handle, err := pathrs.OpenInRoot(root, path)
	if errors.Is(err, os.ErrNotExist) {
		return io.NopCloser(strings.NewReader("")), nil
	}
	if err != nil {
		return nil, fmt.Errorf("open %s of the container: %w", path, err)
	}
	defer handle.Close()
	if info, err := handle.Stat(); err != nil || !info.Mode().IsRegular() {
		return io.NopCloser(strings.NewReader("")), err
	}
	f, err := pathrs.Reopen(handle, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open %s of the container: %w", path, err)
	}
	return f, nil
}
