package cnm

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Reservation is an address of one family that somebody has on a network before there is an endpoint. It goes with
// the reboot, or becomes an endpoint's.
type Reservation struct {
	Network  string       `json:"network"`         // its ID
	Key      string       `json:"key"`             // who has asked, and for what; chosen by them
	Addr     netip.Prefix `json:"addr"`            // with the subnet's length
	NetNS    *Adopted     `json:"netns,omitempty"` // whose end ends it; nil: who has asked gives it back
	Since    time.Time    `json:"since"`
	Revision uint64       `json:"-"`
}

// ReservationRequest asks for an address of one family.
type ReservationRequest struct {
	Network string
	Key     string
	IPv6    bool
	Want    netip.Addr // the zero value: a free one
	NetNS   *Adopted   // of the reservation
}

// MaxKey bounds the keys of reservations, in bytes.
const MaxKey = 512

// ReservationID is the ID of the record.
func ReservationID(network, key string, ipv6 bool) string {
	return network + "/" + strings.TrimPrefix(ReservationOwner(key, ipv6), reserved)
}

// reserved is what the owners of addresses without an endpoint begin with.
const reserved = "reserved/"

// ReservationOwner is what an [IPAM] knows a reservation by: an owner of one address of that family alone.
func ReservationOwner(key string, ipv6 bool) string {
	if ipv6 {
		return reserved + "6/" + key
	}
	return reserved + "4/" + key
}

// OwnsFamily reports whether an owner is to have addresses of a family: endpoints have those of both.
func OwnsFamily(owner string, ipv6 bool) bool {
	return !strings.HasPrefix(owner, reserved) || strings.HasPrefix(owner, ReservationOwner("", ipv6))
}

// ReservationOf decodes a record of [KindReservation].
func ReservationOf(r Record) (Reservation, error) {
	v, err := decode[Reservation](r)
	v.Revision = r.Revision
	return v, err
}

// FindReservations reads the reservations on a network, in order of family and key.
func FindReservations(ctx context.Context, s Store, network string) ([]Reservation, error) {
	records, err := s.Find(ctx, KindReservation, network+"/")
	if err != nil {
		return nil, err
	}
	return decoded(records, ReservationOf)
}

// ReservationsOf reads the reservations on all networks whose keys begin with what is given.
func ReservationsOf(ctx context.Context, s Store, key string) ([]Reservation, error) {
	records, err := s.List(ctx, KindReservation)
	if err != nil {
		return nil, err
	}
	// The ID is the network, the family and the key: no record of others is decoded.
	return decoded(slices.DeleteFunc(records, func(r Record) bool {
		parts := strings.SplitN(r.Key.ID, "/", 3)
		return len(parts) < 3 || !strings.HasPrefix(parts[2], key)
	}), ReservationOf)
}
