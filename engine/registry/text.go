package registry

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxText is how much of what a registry says is shown, in bytes.
const maxText = 512

// said makes one line of what a server said: without anything a terminal could take for a command, and cut.
func said(text string) string {
	var b strings.Builder
	space := false
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		part := text[i : i+n]
		i += n
		if unicode.IsSpace(r) {
			space = b.Len() > 0
			continue
		}
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			part = strings.Trim(strconv.QuoteToASCII(part), `"`)
		}
		if space {
			part, space = " "+part, false
		}
		if b.Len()+len(part) > maxText-len("…") {
			return b.String() + "…"
		}
		b.WriteString(part)
	}
	return b.String()
}

// looksLikeHTML reports whether a body is a page for people: of a proxy, a log-in to a network, a web server.
func looksLikeHTML(contentType string, body []byte) bool {
	if t := mediaType(contentType); t == "text/html" || t == "application/xhtml+xml" {
		return true
	}
	start := strings.ToLower(strings.TrimLeftFunc(string(body[:min(len(body), maxText)]), unicode.IsSpace))
	return strings.HasPrefix(start, "<!doctype html") || strings.HasPrefix(start, "<html")
}

// mediaType is a Content-Type without its parameters, in lower case.
func mediaType(contentType string) string {
	t, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(t))
}
