package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxBody is how long what describes a request may be, in bytes. What is a file has no such bound.
const maxBody = 4 << 20

// decode reads the JSON value that a request is described by. A body that is missing or null leaves it as it is.
func decode(w *answer, r *http.Request, into any) error {
	if r.ContentLength == 0 || r.Body == nil {
		return nil
	}
	if r.ContentLength > maxBody {
		return fmt.Errorf("read the request: %w", &http.MaxBytesError{Limit: maxBody})
	}
	given := r.Header.Get("Content-Type")
	if kind, _, err := mime.ParseMediaType(given); given != "" && (err != nil || kind != "application/json") {
		return invalid("Content-Type", given, "is not what a request is described by", "send application/json")
	}
	_ = w.control.SetReadDeadline(time.Now().Add(bodyTime))
	defer func() { _ = w.control.SetReadDeadline(time.Time{}) }()
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	err := d.Decode(into)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		if _, next := d.Token(); !errors.Is(next, io.EOF) {
			err = errors.New("something follows the JSON value")
		}
	}
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return fmt.Errorf("read the request: %w", err)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &refusal{status: http.StatusRequestTimeout, text: fmt.Sprintf("the request has not come whole in %s",
			bodyTime)}
	}
	if err != nil {
		if a := noAddress.FindStringSubmatch(err.Error()); a != nil && a[1] == "Prefix" {
			return invalid("subnet", a[2], "invalid CIDR address", "write it as 10.5.0.0/16 or fd00:5::/64")
		} else if a != nil {
			return invalid("address", a[2], "is no IP address", "write it as 10.5.0.7 or fd00:5::7")
		}
		return invalid("body", "", "is not the JSON that this request is described by: "+err.Error(),
			"see https://docs.docker.com/reference/api/engine/version/v"+MaxVersion)
	}
	return nil
}

// noAddress finds in the error of a decoder what was to be an address or a subnet.
var noAddress = regexp.MustCompile(`\bParse(Prefix|Addr)\("([^"]*)"\)`)

// flag is a parameter of the query that is true or false, as Docker reads it.
func flag(r *http.Request, name string) bool {
	switch strings.ToLower(strings.TrimSpace(r.URL.Query().Get(name))) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

// flagOr is such a parameter that stands for something else where it is not given.
func flagOr(r *http.Request, name string, otherwise bool) bool {
	if !r.URL.Query().Has(name) {
		return otherwise
	}
	return flag(r, name)
}

// filtersOf are the filters of a request as KEY=VALUE. Docker has them as JSON, in two forms: {"label":["a","b"]} and
// {"label":{"a":true,"b":true}}.
func filtersOf(r *http.Request) ([]string, error) {
	text := r.URL.Query().Get("filters")
	if text == "" {
		return nil, nil
	}
	bad := func(reason string) error {
		return invalid("filters", text, reason, `give JSON such as {"label":["a=b"]}`)
	}
	var byKey map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &byKey); err != nil {
		return nil, bad("are no JSON: " + err.Error())
	}
	var out []string
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		var values []string
		if json.Unmarshal(byKey[key], &values) != nil {
			var set map[string]bool
			if err := json.Unmarshal(byKey[key], &set); err != nil {
				return nil, bad("have something else than a list under " + strconv.Quote(key))
			}
			values = slices.Sorted(maps.Keys(set))
		}
		if strings.Contains(key, "=") {
			return nil, bad("have " + strconv.Quote(key) + ", which is no key")
		}
		for _, v := range values {
			out = append(out, key+"="+v)
		}
	}
	return out, nil
}

// take takes the values of a key out of filters.
func take(filters []string, key string) (values, rest []string) {
	for _, f := range filters {
		if value, ok := strings.CutPrefix(f, key+"="); ok {
			values = append(values, value)
		} else {
			rest = append(rest, f)
		}
	}
	return values, rest
}

// upload is the body of a request that is a file. Whoever sends nothing for a while has gone.
type upload struct {
	w    *answer
	body io.Reader
}

// fileTime is how long a file may pause on its way.
const fileTime = 5 * time.Minute

// download is an answer that is a file. Whoever takes nothing for a while has gone.
type download struct{ w *answer }

// Write implements [io.Writer].
func (d download) Write(b []byte) (int, error) {
	_ = d.w.control.SetWriteDeadline(time.Now().Add(fileTime))
	return d.w.Write(b)
}

// Read implements [io.Reader].
func (u upload) Read(b []byte) (int, error) {
	_ = u.w.control.SetReadDeadline(time.Now().Add(fileTime))
	n, err := u.body.Read(b)
	if err != nil {
		_ = u.w.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
