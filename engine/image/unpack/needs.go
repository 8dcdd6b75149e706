package unpack

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Needs are what a layer takes from the layers below it, see [Complete]. Paths are relative to the layer's root, and
// lead through no symbolic link of the layer.
//
// In JSON, names that are not UTF-8 are written as Go string literals: nothing of them is lost.
type Needs struct {
	// Parents are directories that hold entries of the archive and are not named in it: they have the owner, the
	// mode, the times and the attributes of what is below, where there is something.
	Parents []string
	// Links are hard links to files that are not in the archive.
	Links []Link
}

// Link is a hard link to a file of the layers below.
type Link struct {
	Name   string // where it is to be in this layer
	Target string // the file's path in the root filesystem
}

// Empty reports whether the layer is complete by itself.
func (n Needs) Empty() bool { return len(n.Parents) == 0 && len(n.Links) == 0 }

type jsonNeeds struct {
	Parents []string    `json:"parents,omitempty"`
	Links   [][2]string `json:"links,omitempty"` // name and target
}

// MarshalJSON implements [json.Marshaler].
func (n Needs) MarshalJSON() ([]byte, error) {
	var j jsonNeeds
	for _, p := range n.Parents {
		j.Parents = append(j.Parents, quoteName(p))
	}
	for _, l := range n.Links {
		j.Links = append(j.Links, [2]string{quoteName(l.Name), quoteName(l.Target)})
	}
	return json.Marshal(j)
}

// UnmarshalJSON implements [json.Unmarshaler].
func (n *Needs) UnmarshalJSON(b []byte) error {
	var j jsonNeeds
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	var got Needs
	for _, p := range j.Parents {
		name, err := unquoteName(p)
		if err != nil {
			return err
		}
		got.Parents = append(got.Parents, name)
	}
	for _, l := range j.Links {
		name, err := unquoteName(l[0])
		if err != nil {
			return err
		}
		target, err := unquoteName(l[1])
		if err != nil {
			return err
		}
		got.Links = append(got.Links, Link{Name: name, Target: target})
	}
	*n = got
	return nil
}

// quoteName writes what JSON cannot hold as a Go string literal, by which it is told from the others.
func quoteName(s string) string {
	if !utf8.ValidString(s) || strings.HasPrefix(s, `"`) {
		return strconv.QuoteToASCII(s)
	}
	return s
}

func unquoteName(s string) (string, error) {
	if !strings.HasPrefix(s, `"`) {
		return s, nil
	}
	name, err := strconv.Unquote(s)
	if err != nil {
		return "", fmt.Errorf("read the quoted name %s: %w", s, err)
	}
	return name, nil
}

// What may be needed of layers below: it is kept in memory, and in a record of the layer.
const (
	maxNeeds      = 1 << 17 // directories and links
	maxNeedsBytes = 16 << 20
)

// needs collects what a layer needs while it is unpacked.
type needs struct {
	implied map[uint64]string // by inode number: paths of directories made for what they hold
	links   []Link
	targets map[string]string // of links, by their names
	count   int
	bytes   int
}

// take bounds what is kept.
func (n *needs) take(entry string, bytes int) error {
	n.count++
	n.bytes += bytes
	if n.count > maxNeeds || n.bytes > maxNeedsBytes {
		return &EntryError{Entry: entry, Reason: fmt.Sprintf("needs one thing too many of the layers below: %d "+
			"directories and links with names of %d MiB may be left to them", maxNeeds, maxNeedsBytes>>20),
			Remedy: "make the archive with its directories in it"}
	}
	return nil
}

// imply notes a directory that was made because an entry is in it.
func (n *needs) imply(ino uint64, real string) error {
	if n.implied == nil {
		n.implied = map[uint64]string{}
	}
	n.implied[ino] = real
	return n.take(real, len(real))
}

// named notes that the archive does name a directory.
func (n *needs) named(ino uint64) {
	if len(n.implied) > 0 {
		delete(n.implied, ino)
	}
}

// link notes a hard link. A link to such a link is one to the same file.
func (n *needs) link(name, target string) error {
	if t, ok := n.targets[target]; ok {
		target = t
	}
	if n.targets == nil {
		n.targets = map[string]string{}
	}
	n.targets[name] = target
	n.links = append(n.links, Link{Name: name, Target: target})
	return n.take(name, len(name)+len(target))
}

// result is what is needed when all is unpacked: later entries may have put something else in a place.
func (n *needs) result(t *tree) Needs {
	var out Needs
	for ino, p := range n.implied {
		var st unix.Stat_t
		if fd, err := t.exact(p); err == nil {
			err = unix.Fstat(fd, &st)
			unix.Close(fd)
			if err == nil && st.Ino == ino {
				out.Parents = append(out.Parents, p)
			}
		}
	}
	slices.Sort(out.Parents)
	for _, l := range n.links {
		if n.targets[l.Name] != l.Target {
			continue
		}
		fd, err := t.exact(above(l.Name))
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Fstatat(fd, path.Base(l.Name), &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			out.Links = append(out.Links, l)
			delete(n.targets, l.Name) // once
		}
		unix.Close(fd)
	}
	return out
}
