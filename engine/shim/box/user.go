package box

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/rootfile"
)

// accountsLimit bounds /etc/passwd and /etc/group of a container, in bytes.
const accountsLimit = 16 << 20

// lookupUser resolves name|uid[:group|gid] with the passwd and group files of
// the root filesystem, which is not trusted.
func lookupUser(root, spec string) (*user.ExecUser, error) {
	if spec == "" {
		spec = "0"
	}
	passwd, err := accounts(root, "/etc/passwd")
	if err != nil {
		return nil, err
	}
	group, err := accounts(root, "/etc/group")
	if err != nil {
		return nil, err
	}
	u, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return nil, fmt.Errorf("user %q: %w in the image: give a name of its /etc/passwd or a number", spec, err)
	}
	return u, nil
}

// accounts reads a file of users or groups. One that is missing, or no file, has none.
func accounts(root, path string) ([]byte, error) {
	text, err := rootfile.Read(root, path, accountsLimit)
	for _, none := range []error{os.ErrNotExist, rootfile.ErrNotRegular, unix.ELOOP} {
		if errors.Is(err, none) {
			return nil, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("look up users of the container: %w", err)
	}
	return text, nil
}

// lookupGroups resolves names and IDs of groups, as lookupUser does.
func lookupGroups(root string, given []string) ([]int, error) {
	if len(given) == 0 {
		return nil, nil
	}
	group, err := accounts(root, "/etc/group")
	if err != nil {
		return nil, err
	}
	ids, err := user.GetAdditionalGroups(given, bytes.NewReader(group))
	if err != nil {
		return nil, fmt.Errorf("group-add %q: %w: give names of the image's /etc/group or numbers", given, err)
	}
	return ids, nil
}
