package show

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Plain is text with every character that a terminal could take for a command (C0 and C1 controls of ECMA-48, and
// what turns the direction of text) written as an escape: \x1b, \u202e. Line ends and tabs are written so too.
func Plain(text string) string { return plain(text, "") }

// PlainLines is [Plain] that leaves line ends and tabs as they are.
func PlainLines(text string) string { return plain(text, "\n\t") }

func plain(text, kept string) string {
	if !strings.ContainsFunc(text, func(r rune) bool { return unsafe(r) && !strings.ContainsRune(kept, r) }) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		part := text[i : i+n]
		if unsafe(r) && !strings.ContainsRune(kept, r) {
			part = strings.Trim(strconv.QuoteToASCII(part), `"`)
		}
		b.WriteString(part)
		i += n
	}
	return b.String()
}

func unsafe(r rune) bool {
	return r == utf8.RuneError || unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)
}

// Painted is text that this program has given colours: what it holds of others is plain already.
type Painted string

// leastWidth is what text is broken into lines for: of narrower ones a terminal makes more than we would.
const leastWidth = 30

// Wrap breaks text between words into lines of a width, where it is wide enough. A longer word has a line of its own.
func Wrap(text string, width int) []string {
	if width < leastWidth || utf8.RuneCountInString(text) <= width {
		return []string{text}
	}
	var lines []string
	line, room := "", width
	for _, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case line == "":
			line, room = word, width-n
		case n+1 <= room:
			line, room = line+" "+word, room-n-1
		default:
			lines = append(lines, line)
			line, room = word, width-n
		}
	}
	return append(lines, line)
}

// Printf formats like fmt.Fprintf, with [PlainLines] of every text and error among the arguments.
func Printf(w io.Writer, format string, args ...any) (int, error) {
	out := make([]any, len(args))
	for i, a := range args {
		switch a := a.(type) {
		case Painted:
			out[i] = string(a)
		case string:
			out[i] = PlainLines(a)
		case error:
			out[i] = PlainLines(a.Error())
		case fmt.Stringer:
			out[i] = PlainLines(a.String())
		default:
			out[i] = a
		}
	}
	return fmt.Fprintf(w, format, out...)
}

// Println is a line of one text.
func Println(w io.Writer, text string) error {
	_, err := Printf(w, "%s\n", text)
	return err
}

// encoder writes JSON whose texts a terminal takes no command from: encoding/json escapes the C0 controls alone.
type encoder struct {
	*json.Encoder
	b bytes.Buffer
	w io.Writer
}

func newEncoder(w io.Writer) *encoder {
	e := &encoder{w: w}
	e.Encoder = json.NewEncoder(&e.b)
	e.SetEscapeHTML(false)
	return e
}

// Encode writes one value.
func (e *encoder) Encode(v any) error {
	e.b.Reset()
	if err := e.Encoder.Encode(v); err != nil {
		return err
	}
	var out strings.Builder
	for _, r := range e.b.String() {
		if r != '\n' && unsafe(r) {
			fmt.Fprintf(&out, `\u%04x`, r)
			continue
		}
		out.WriteRune(r)
	}
	_, err := io.WriteString(e.w, out.String())
	return err
}

// JSON writes a value as a line of JSON, whose texts a terminal takes no command from.
func JSON(w io.Writer, v any) error { return newEncoder(w).Encode(v) }
