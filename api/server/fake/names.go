package fake

import (
	"context"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/vethloom/vethloom/api/server"
)

// LookupName implements [server.Names]: every name is an alias of itself at 192.0.2.53, but those that begin with "no".
func (d *systemPart) LookupName(_ context.Context, asker, name, typ string) ([]server.NameAnswer, error) {
	if err := d.enter("LookupName"); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	if asker == "nobody" {
		return nil, missing("container or network", asker)
	}
	if strings.HasPrefix(name, "no") {
		return []server.NameAnswer{{Type: "A", Rcode: "NXDOMAIN",
			Steps: []string{"not asked elsewhere: all of its networks are internal"}}}, nil
	}
	if typ == "" {
		typ = "A"
	}
	return []server.NameAnswer{{Type: typ, Rcode: "NOERROR",
		Records: []string{name + ".\t5\tIN\t" + typ + "\t192.0.2.53"},
		Steps:   []string{"name of container " + name + " on network front"}}}, nil
}

// WatchNames implements [server.Names]: two questions, of the askers given or of web.
func (d *systemPart) WatchNames(_ context.Context, askers []string) iter.Seq2[server.NameQuery, error] {
	return func(yield func(server.NameQuery, error) bool) {
		if err := d.enter("WatchNames"); err != nil {
			yield(server.NameQuery{}, err)
			return
		}
		d.mu.Unlock()
		if slices.Contains(askers, "nobody") {
			yield(server.NameQuery{}, missing("container or network", "nobody"))
			return
		}
		if len(askers) == 0 {
			askers = []string{"web"}
		}
		if slices.Contains(askers, "blank") { // as a resolver may say that was taken over
			yield(server.NameQuery{Asker: "web", Name: "db", Type: "A", Records: []string{"", " "}}, nil)
			return
		}
		at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		for _, q := range []server.NameQuery{
			{Time: at, Asker: askers[0], Client: "10.7.0.2:40000", Name: "db", Type: "A", Rcode: "NOERROR",
				Records: []string{"db.\t5\tIN\tA\t10.7.0.3"}, Source: "names", Took: 21 * time.Microsecond},
			{Time: at, Asker: askers[0], Client: "10.7.0.2:40001", Name: "example.org", Type: "AAAA", Rcode: "NXDOMAIN",
				Source: "192.0.2.53", Took: 12 * time.Millisecond, Lost: 3},
		} {
			if !yield(q, nil) {
				return
			}
		}
	}
}
