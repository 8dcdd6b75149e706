package cnm

import (
	"context"
	"encoding/json"
	"fmt"
)

// record is a value the store keeps for the controller.
type record interface {
	Network | Sandbox | Endpoint | Peer | Call | Grant | Lease | Reservation
}

// NetworkOf decodes a record of [KindNetwork].
func NetworkOf(r Record) (Network, error) {
	n, err := decode[Network](r)
	n.Revision = r.Revision
	return n, err
}

// SandboxOf decodes a record of [KindSandbox].
func SandboxOf(r Record) (Sandbox, error) {
	s, err := decode[Sandbox](r)
	s.Revision = r.Revision
	return s, err
}

// EndpointOf decodes a record of [KindEndpoint].
func EndpointOf(r Record) (Endpoint, error) {
	e, err := decode[Endpoint](r)
	e.Revision = r.Revision
	return e, err
}

// PeerOf decodes a record of [KindPeer].
func PeerOf(r Record) (Peer, error) {
	p, err := decode[Peer](r)
	p.Revision = r.Revision
	return p, err
}

// CallOf decodes a record of [KindCall].
func CallOf(r Record) (Call, error) {
	c, err := decode[Call](r)
	c.Revision = r.Revision
	return c, err
}

// GrantOf decodes a record of [KindGrant].
func GrantOf(r Record) (Grant, error) {
	g, err := decode[Grant](r)
	g.Revision = r.Revision
	return g, err
}

// LeaseOf decodes a record of [KindLease].
func LeaseOf(r Record) (Lease, error) {
	l, err := decode[Lease](r)
	l.Revision = r.Revision
	return l, err
}

// ListLeases reads every record of leases, in order of ID.
func ListLeases(ctx context.Context, s Store) ([]Lease, error) {
	return list(ctx, s, KindLease, LeaseOf)
}

// ListGrants reads every record of what IPAM drivers of others have given, in order of ID.
func ListGrants(ctx context.Context, s Store) ([]Grant, error) {
	return list(ctx, s, KindGrant, GrantOf)
}

// ListCalls reads every record of calls, in order of ID.
func ListCalls(ctx context.Context, s Store) ([]Call, error) {
	return list(ctx, s, KindCall, CallOf)
}

// ListPeers reads every peer record, in order of ID.
func ListPeers(ctx context.Context, s Store) ([]Peer, error) {
	return list(ctx, s, KindPeer, PeerOf)
}

// ListNetworks reads every network record, in order of ID.
func ListNetworks(ctx context.Context, s Store) ([]Network, error) {
	return list(ctx, s, KindNetwork, NetworkOf)
}

// ListSandboxes reads every sandbox record, in order of ID.
func ListSandboxes(ctx context.Context, s Store) ([]Sandbox, error) {
	return list(ctx, s, KindSandbox, SandboxOf)
}

// ListEndpoints reads every endpoint record, in order of ID.
func ListEndpoints(ctx context.Context, s Store) ([]Endpoint, error) {
	return list(ctx, s, KindEndpoint, EndpointOf)
}

func list[T record](ctx context.Context, s Store, kind Kind, of func(Record) (T, error)) ([]T, error) {
	records, err := s.List(ctx, kind)
	if err != nil {
		return nil, fmt.Errorf("list %s records: %w", kind, err)
	}
	return decoded(records, of)
}

func decoded[T record](records []Record, of func(Record) (T, error)) ([]T, error) {
	out := make([]T, 0, len(records))
	for _, r := range records {
		v, err := of(r)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func decode[T record](r Record) (T, error) {
	var v T
	if err := json.Unmarshal(r.Value, &v); err != nil {
		return v, fmt.Errorf("decode the %s record %s: %w", r.Key.Kind, r.Key.ID, err)
	}
	return v, nil
}

// Put is the write that stores v in place of revision.
func Put[T record](kind Kind, id string, v T, revision uint64) (Write, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return Write{}, fmt.Errorf("encode the %s record %s: %w", kind, id, err)
	}
	return Write{Key: Key{Kind: kind, ID: id}, Value: b, Revision: revision}, nil
}

// Change reads a record, lets edit change its value and writes it back, once
// more when another call has changed it meanwhile.
func Change[T record](ctx context.Context, s Store, kind Kind, id string, edit func(*T)) (Write, error) {
	rec, err := s.Get(ctx, Key{kind, id})
	if err != nil {
		return Write{}, err
	}
	v, err := decode[T](rec)
	if err != nil {
		return Write{}, err
	}
	edit(&v)
	return Put(kind, id, v, rec.Revision)
}
