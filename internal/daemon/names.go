package daemon

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/resolver/control"
	"github.com/vethloom/vethloom/plan"
)

// lookups serves the API's names.
type lookups struct{ *daemon }

// asker is a place that names are asked at, with what people call it.
type asker struct {
	name   string
	server plan.NameServer
}

// askersOf finds the server of a container's sandbox, or those at a network's gateways.
func (d lookups) askersOf(ctx context.Context, ref string) ([]asker, error) {
	sandbox, _, err := d.nets.sandboxOf(ctx, ref)
	if err != nil && !errors.Is(err, cnm.ErrNotFound) {
		return nil, err
	}
	if err == nil && sandbox == "" {
		if _, notNetwork := d.ctrl.Network(ctx, ref); notNetwork != nil {
			return nil, &cnm.Error{Kind: cnm.ErrForbidden, Field: "container", Value: ref, Reason: "it does not run",
				Remedy: "start it: what does not run asks nothing"}
		}
	}
	if sandbox != "" {
		b, err := d.ctrl.Sandbox(ctx, sandbox)
		if err != nil {
			return nil, err
		}
		if b.Host {
			return nil, &cnm.Error{Kind: cnm.ErrForbidden, Field: "container", Value: ref,
				Reason: "it is on the host's network and asks the host's own servers", Remedy: "ask them"}
		}
		return []asker{{ref, d.serverOf(b)}}, nil
	}
	n, err := d.ctrl.Network(ctx, ref)
	if errors.Is(err, cnm.ErrNotFound) {
		return nil, &cnm.Error{Kind: cnm.ErrNotFound, Field: "container or network", Value: ref,
			Reason: "there is no such container and no such network", Remedy: "net ps; net network ls"}
	}
	if err != nil {
		return nil, err
	}
	st, err := d.render.Names(n)
	if err != nil {
		return nil, err
	}
	if len(st.NameServers) == 0 {
		return nil, &cnm.Error{Kind: cnm.ErrForbidden, Field: "network", Value: n.Name,
			Reason: "the host has no address on it that names can be asked at",
			Remedy: "name a container that is on it"}
	}
	var out []asker
	for _, s := range st.NameServers {
		out = append(out, asker{n.Name, s})
	}
	return out, nil
}

func (d lookups) serverOf(b cnm.Sandbox) plan.NameServer {
	for _, s := range d.render.Sandbox(b).NameServers {
		return s
	}
	return plan.NameServer{}
}

// LookupName implements [server.Names].
func (d lookups) LookupName(ctx context.Context, ref, name, typ string) ([]server.NameAnswer, error) {
	types, name, err := questions(name, typ)
	if err != nil {
		return nil, err
	}
	askers, err := d.askersOf(ctx, ref)
	if err != nil {
		return nil, err
	}
	var out []server.NameAnswer
	for _, t := range types {
		e, err := d.names.Lookup(ctx, control.Lookup{Server: askers[0].server.Key(), Name: name, Type: t})
		if err != nil {
			return nil, &cnm.Error{Kind: cnm.ErrUnavailable, Field: "name", Value: name, Reason: err.Error(),
				Remedy: "net status tells whether names are answered"}
		}
		out = append(out, server.NameAnswer{Type: dns.TypeToString[t], Rcode: e.Rcode, Records: e.Answers,
			Steps: e.Steps})
	}
	return out, nil
}

// questions are the types that a lookup asks for, and the name as it is asked.
func questions(name, typ string) ([]uint16, string, error) {
	if a, err := netip.ParseAddr(name); err == nil && typ == "" {
		reverse, err := dns.ReverseAddr(a.String())
		return []uint16{dns.TypePTR}, reverse, err
	}
	if _, ok := dns.IsDomainName(name); !ok || name == "" {
		return nil, "", &cnm.Error{Kind: cnm.ErrInvalid, Field: "name", Value: name, Reason: "not a name of DNS",
			Remedy: "use parts of 1 to 63 bytes with dots between them, 253 bytes in all"}
	}
	if typ == "" {
		return []uint16{dns.TypeA, dns.TypeAAAA}, name, nil
	}
	t, ok := dns.StringToType[strings.ToUpper(typ)]
	if !ok {
		return nil, "", &cnm.Error{Kind: cnm.ErrInvalid, Field: "type", Value: typ, Reason: "not a type of records",
			Remedy: "use A, AAAA, PTR, SRV, TXT, MX or another of DNS"}
	}
	return []uint16{t}, name, nil
}

// WatchNames implements [server.Names].
func (d lookups) WatchNames(ctx context.Context, refs []string) iter.Seq2[server.NameQuery, error] {
	return func(yield func(server.NameQuery, error) bool) {
		var keys []string
		for _, ref := range refs {
			askers, err := d.askersOf(ctx, ref)
			if err != nil {
				yield(server.NameQuery{}, err)
				return
			}
			for _, a := range askers {
				keys = append(keys, a.server.Key())
			}
		}
		for q, err := range d.names.Watch(ctx, keys) {
			if err != nil {
				yield(server.NameQuery{}, fmt.Errorf("watch names: %w", err))
				return
			}
			if !yield(server.NameQuery{Time: q.Time, Asker: d.titleOf(ctx, q.Server), Client: q.Client, Name: q.Name,
				Type: q.Type, Rcode: q.Rcode, Records: q.Answers, Source: q.Source, Took: q.Took, Lost: q.Lost}, nil) {
				return
			}
		}
	}
}

// titleOf is what people call the place of a server with that key.
func (d lookups) titleOf(ctx context.Context, key string) string {
	place, _, _ := strings.Cut(key, "/")
	if b, err := d.ctrl.Sandbox(ctx, place); err == nil {
		ends, err := d.ctrl.EndpointsOf(ctx, b.ID)
		if err == nil && len(ends) > 0 && ends[0].Name != "" {
			return ends[0].Name
		}
	}
	link, _, found := strings.Cut(key, " ")
	if !found {
		return place
	}
	networks, err := d.ctrl.Networks(ctx)
	if err != nil {
		return place
	}
	i := slices.IndexFunc(networks, func(n cnm.Network) bool {
		st, err := d.render.Names(n)
		return err == nil && len(st.NameServers) > 0 && st.NameServers[0].Link == link
	})
	if i < 0 {
		return place
	}
	return networks[i].Name
}
