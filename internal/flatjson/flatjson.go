package flatjson

import (
	"encoding/json"
	"net/netip"
	"strconv"
)

// Object calls field with the name and the raw value of each member. It is false when the text is not plain or field says
// that it does not know what to do with one: then nothing that field was told counts.
func Object(text []byte, field func(name string, value []byte) bool) bool {
	if len(text) < 2 || text[0] != '{' {
		return false
	}
	if text[1] == '}' {
		return len(text) == 2
	}
	for at := 1; ; at++ {
		name, end := quoted(text, at)
		if end < 0 || end >= len(text) || text[end] != ':' {
			return false
		}
		start := end + 1
		if end = valueEnd(text, start); end < 0 || !field(string(name), text[start:end]) {
			return false
		}
		switch at = end; text[at] {
		case ',':
		case '}':
			return at == len(text)-1
		default:
			return false
		}
	}
}

// quoted is the plain string that starts at a place, without its quotes, and where it ends; -1 when there is none.
func quoted(text []byte, at int) (s []byte, end int) {
	if at >= len(text) || text[at] != '"' {
		return nil, -1
	}
	for i := at + 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			return text[at+1 : i], i + 1
		case c == '\\' || c < ' ' || c > '~':
			return nil, -1
		}
	}
	return nil, -1
}

// value is where the value that starts at a place ends, or -1.
func value(text []byte, at int) int {
	if at >= len(text) {
		return -1
	}
	switch c := text[at]; {
	case c == '"':
		_, end := quoted(text, at)
		return end
	case c == '{' || c == '[':
		return nested(text, at)
	case c >= '0' && c <= '9':
		end := at + 1
		for end < len(text) && text[end] >= '0' && text[end] <= '9' {
			end++
		}
		if c == '0' && end > at+1 {
			return -1
		}
		return end
	}
	for _, word := range []string{"null", "true", "false"} {
		if end := at + len(word); end <= len(text) && string(text[at:end]) == word {
			return end
		}
	}
	return -1
}

// nested is where an object or array ends, or -1.
func nested(text []byte, at int) int {
	depth := 0
	for i := at; i < len(text); i++ {
		switch text[i] {
		case '"':
			_, end := quoted(text, i)
			if end < 0 {
				return -1
			}
			i = end - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				if !json.Valid(text[at : i+1]) {
					return -1
				}
				return i + 1
			}
		}
	}
	return -1
}

// Raw is a copy of a value.
func Raw(value []byte, to *json.RawMessage) bool {
	*to = append(json.RawMessage(nil), value...)
	return true
}

// String reads a string.
func String[T ~string](value []byte, to *T) bool {
	if value[0] != '"' {
		return false
	}
	*to = T(value[1 : len(value)-1])
	return true
}

// Bool reads true or false.
func Bool(value []byte, to *bool) bool {
	*to = string(value) == "true"
	return *to || string(value) == "false"
}

// Uint reads a number without sign and fraction that a type of so many bits holds.
func Uint(value []byte, bits int) (uint64, bool) {
	n, err := strconv.ParseUint(string(value), 10, bits)
	return n, err == nil
}

// Addr reads an IP address; "" is the zero value.
func Addr(value []byte, to *netip.Addr) bool {
	var s string
	if !String(value, &s) {
		return false
	}
	var err error
	if *to = (netip.Addr{}); s != "" {
		*to, err = netip.ParseAddr(s)
	}
	return err == nil
}

// Bytes reads an array of as many small numbers as there is place for.
func Bytes(value []byte, to []byte) bool {
	i := 0
	return Array(value, func(v []byte) bool {
		n, ok := Uint(v, 8)
		if !ok || i == len(to) {
			return false
		}
		to[i] = byte(n)
		i++
		return true
	}) && i == len(to)
}

// Array calls each with the raw elements of an array.
func Array(value []byte, each func([]byte) bool) bool {
	if len(value) < 2 || value[0] != '[' {
		return false
	}
	if value[1] == ']' {
		return len(value) == 2
	}
	for at := 1; ; at++ {
		end := valueEnd(value, at)
		if end < 0 || !each(value[at:end]) {
			return false
		}
		switch at = end; value[at] {
		case ',':
		case ']':
			return at == len(value)-1
		default:
			return false
		}
	}
}

// valueEnd is value of one that something must follow.
func valueEnd(text []byte, at int) int {
	if end := value(text, at); end < len(text) {
		return end
	}
	return -1
}
