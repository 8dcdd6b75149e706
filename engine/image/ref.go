package image

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

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

// Named is a reference to an image in a registry.
type Named struct {
	Repository string // short form: busybox, example.org/team/app
	Tag        string // "" where there is a digest
	Digest     string // sha256:…, or ""
}

// Short is the name that an image has here, repository:tag; "" of a digest.
func (n Named) Short() string {
	if n.Tag == "" {
		return ""
	}
	return n.Repository + ":" + n.Tag
}

// Ref is what a registry is asked for: the digest where there is one, or the tag.
func (n Named) Ref() string { return cmp.Or(n.Digest, n.Tag) }

// String is repository:tag or repository@digest.
func (n Named) String() string {
	if n.Digest != "" {
		return n.Repository + "@" + n.Digest
	}
	return n.Short()
}

// ParseNamed reads name[:tag][@digest]. With a digest, the tag says nothing, as with Docker.
func ParseNamed(ref string) (Named, error) {
	rest, digest, pinned := strings.Cut(ref, "@")
	if pinned {
		h, err := v1.NewHash(digest)
		if err != nil || h.Algorithm != "sha256" {
			return Named{}, badReference(ref, fmt.Sprintf("has a malformed digest %q", digest),
				"use name@sha256:DIGEST with 64 hexadecimal digits")
		}
	}
	short, err := ParseReference(rest)
	if err != nil {
		return Named{}, err
	}
	at := strings.LastIndexByte(short, ':')
	n := Named{Repository: short[:at], Tag: short[at+1:], Digest: digest}
	if pinned {
		n.Tag = ""
	}
	return n, nil
}

func badReference(ref, reason, remedy string) error {
	return &cnm.Error{Kind: cnm.ErrInvalid, Field: "image reference", Value: ref, Reason: reason, Remedy: remedy}
}

func referenceProblem(ref string, err error) string {
	name := ref // without the tag
	if at := strings.LastIndexByte(ref, ':'); at > strings.LastIndexByte(ref, '/') {
		name = ref[:at]
	}
	switch {
	case ref == "":
		return "is empty"
	case name != strings.ToLower(name):
		return "has capital letters, which only tags may have"
	}
	// The library repeats the reference and lists every character it would take.
	problem, _, _ := strings.Cut(err.Error(), ": "+ref)
	return "is malformed: " + strings.ReplaceAll(problem, "`", "'")
}

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdef") == ""
}
