package image

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/vethloom/vethloom/cnm"
)

// defaultPrefixes are left out of references as people read them, the longest first.
var defaultPrefixes = []string{name.DefaultRegistry + "/library/", name.DefaultRegistry + "/"}

// validComponent is a part of a repository's name in the OCI distribution
// specification; the library is less strict.
var validComponent = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$`)

// maxReference is the longest name of an image, in bytes: a registry's, the 255 of a repository, the 128 of a tag.
const maxReference = 640

// ParseReference checks name[:tag] and returns its short form, with the tag
// spelled out: busybox means busybox:latest, and so does docker.io/library/busybox.
func ParseReference(ref string) (string, error) {
	if len(ref) > maxReference {
		reason := fmt.Sprintf("has %d bytes, and the limit is %d", len(ref), maxReference)
		return "", badReference(ref[:60]+"…", reason, "choose a shorter name")
	}
	if strings.Contains(ref, "@") {
		return "", badReference(ref, "is a digest, which cannot be given to an image as a name", "use name:tag")
	}
	tag, err := name.NewTag(ref, name.WithDefaultTag("latest"))
	if err != nil {
		return "", badReference(ref, referenceProblem(ref, err),
			"use name[:tag], such as busybox or example.org/team/app:1.2")
	}
	for component := range strings.SplitSeq(tag.RepositoryStr(), "/") {
		if !validComponent.MatchString(component) {
			return "", badReference(ref, fmt.Sprintf("has a malformed part %q", component),
				"use name[:tag], such as busybox or example.org/team/app:1.2")
		}
	}
	short := tag.Name()
	for _, prefix := range defaultPrefixes {
		if rest, ok := strings.CutPrefix(short, prefix); ok {
			short = rest
			break
		}
	}
	// a directory that looks like a registry
	if again, err := name.NewTag(short); err != nil || again.Name() != tag.Name() {
		return "", badReference(ref, "is ambiguous", "put the registry's name in front")
	}
	if repository, _, _ := strings.Cut(short, ":"); isHex(repository) && len(repository) == 64 {
		return "", badReference(ref, "looks like an image ID", "choose a name that is not 64 hexadecimal digits")
	}
	return short, nil
}

func badReference(ref, reason, remedy string) error {
	return &cnm.Error{Kind: cnm.ErrInvalid, Field: "image reference", Value: ref, Reason: reason, Remedy: remedy}
}

func referenceProblem(ref string, err error) string {
	switch {
	case ref == "":
		return "is empty"
	case ref != strings.ToLower(ref) && !strings.Contains(ref, ":"):
		return "has capital letters, which only tags may have"
	}
	// The library repeats the reference and lists every character it would take.
	problem, _, _ := strings.Cut(err.Error(), ": "+ref)
	return "is malformed: " + strings.ReplaceAll(problem, "`", "'")
}

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdef") == ""
}
