package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/store/mem"
)

// world is a Docker and a netd as the follower sees them: what was done is written down.
type world struct {
	Controller
	networks []cnm.Network
	boxes    []cnm.Sandbox
	kept     []cnm.Reservation

	theirs  []EngineNetwork
	ends    map[string][]EngineEndpoint // by network
	broken  error
	refused map[string]error // by what is done
	done    []string
}

func (w *world) do(format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	w.done = append(w.done, what)
	return w.refused[what]
}

func (w *world) Networks(context.Context) ([]cnm.Network, error)  { return w.networks, nil }
func (w *world) Sandboxes(context.Context) ([]cnm.Sandbox, error) { return w.boxes, nil }

func (w *world) Sandbox(_ context.Context, id string) (cnm.Sandbox, error) {
	for _, b := range w.boxes {
		if b.ID == id {
			return b, nil
		}
	}
	return cnm.Sandbox{}, cnm.ErrNotFound
}

func (w *world) SetIdentity(_ context.Context, box string, who cnm.Identity) error {
	return w.do("name %.4s %s %.4s %v", box, who.Name, who.Container, who.Aliases)
}

func (w *world) DeleteSandbox(_ context.Context, id string) error { return w.do("delete %.4s", id) }

func (w *world) DeleteNetwork(_ context.Context, id string) (cnm.Network, error) {
	return cnm.Network{}, w.do("remove ours %.4s", id)
}

func (w *world) Reservations(_ context.Context, network string) ([]cnm.Reservation, error) {
	return slices.DeleteFunc(slices.Clone(w.kept), func(r cnm.Reservation) bool { return r.Network != network }), nil
}

func (w *world) Unreserve(_ context.Context, _, key string, ipv6 bool) error {
	return w.do("unreserve %s %v", key, ipv6)
}

// dockerd is the same world from the other side.
type dockerd struct{ *world }

func (d dockerd) Networks(context.Context) ([]EngineNetwork, error) { return d.theirs, d.broken }

func (d dockerd) Endpoints(_ context.Context, network string) ([]EngineEndpoint, error) {
	return d.ends[network], d.broken
}

func (d dockerd) Aliases(_ context.Context, container, _ string) ([]string, error) {
	return []string{"Web", container[:12], "no name"}, nil
}

func (d dockerd) CreateNetwork(_ context.Context, n EngineNetwork) error {
	return d.do("create %s net=%s made=%.4s %v internal=%v", n.Name, n.Net, n.Made, n.Subnets, n.Internal)
}

func (d dockerd) RemoveNetwork(_ context.Context, id string) error { return d.do("remove %.4s", id) }

func (d dockerd) Changes(ctx context.Context, changed func()) error {
	changed()
	<-ctx.Done()
	return ctx.Err()
}

func id(c string) string { return strings.Repeat(c, 64) }

// follow is a follower whose grace is over with the second look.
func follow(w *world) *Follower {
	f := NewFollower(Backend{Controller: w, Store: mem.New()}, dockerd{w}, slog.New(slog.DiscardHandler))
	f.Grace = time.Nanosecond
	return f
}

// passes looks so often, and returns what was done the last time.
func (w *world) passes(t *testing.T, f *Follower, n int) ([]string, error) {
	t.Helper()
	var err error
	for range n {
		w.done = nil
		err = f.Pass(t.Context())
	}
	return w.done, err
}

func same(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got  %q\n want %q", what, got, want)
	}
}

// Docker gets the networks of the cluster, and loses those that netd has made there and are gone, or are others now.
// What its user has made stays.
func TestNetworksInDocker(t *testing.T) {
	subnet, other := netip.MustParsePrefix("10.20.0.0/16"), netip.MustParsePrefix("10.21.0.0/16")
	shared := func(c, name string) cnm.Network {
		return cnm.Network{ID: id(c), Name: name, Phase: cnm.Active, Pools: []cnm.Pool{{Subnet: subnet}},
			Cluster: &cnm.ClusterNetwork{}}
	}
	leaving, without := shared("4", "leaving"), shared("5", "without")
	leaving.Phase, without.Pools = cnm.Deleting, nil
	made := func(c, name, of string, s netip.Prefix) EngineNetwork {
		return EngineNetwork{ID: id(c), Name: name, Driver: driverName, Net: name, Made: id(of),
			Subnets: []netip.Prefix{s}}
	}
	two, both := shared("b", "two"), made("1", "two", "b", other)
	two.Pools = []cnm.Pool{{Subnet: subnet}, {Subnet: other}}
	both.Subnets = []netip.Prefix{other, subnet}
	w := &world{
		networks: []cnm.Network{shared("1", "new"), shared("2", "there"), shared("3", "moved"), leaving, without, two,
			{ID: id("6"), Name: "local", Phase: cnm.Active, Pools: []cnm.Pool{{Subnet: subnet}}},
			shared("7", "clash"), shared("8", "own"), shared("9", "again")},
		theirs: []EngineNetwork{both, made("a", "there", "2", subnet), made("b", "moved", "3", other),
			made("c", "gone", "f", subnet), {ID: id("d"), Name: "clash", Driver: "bridge"},
			{ID: id("e"), Name: "own", Driver: driverName, Net: "own"},
			made("f", "again", "0", subnet), {ID: id("0"), Name: "bridge", Driver: "bridge"}},
		refused: map[string]error{"remove bbbb": errors.New("has active endpoints")},
	}
	did, err := w.passes(t, follow(w), 1)
	same(t, "what was done", did, "remove bbbb", "remove cccc", "remove ffff",
		"create new net=new made=1111 [10.20.0.0/16] internal=false")
	for _, says := range []string{"network moved", "has active endpoints", "network clash", "of its own"} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("the trouble is %v, want %q", err, says)
		}
	}
}

// A container is named once, and again when it has another name; an endpoint that is not ours, or no container's, not
// at all.
func TestNamesOfDockersContainers(t *testing.T) {
	ours := cnm.Sandbox{ID: sandboxID(id("1")), Engine: cnm.EngineDocker, Handed: true,
		Labels: map[string]string{endpointLabel: id("1")}}
	w := &world{boxes: []cnm.Sandbox{ours}, theirs: []EngineNetwork{{ID: id("a"), Driver: driverName},
		{ID: id("b"), Driver: "bridge"}},
		ends: map[string][]EngineEndpoint{id("a"): {{ID: id("1"), Container: id("c"), Name: "shop"},
			{ID: id("2"), Container: id("d"), Name: "not-yet"}, {ID: id("3"), Container: "ep-" + id("3")}},
			id("b"): {{ID: id("4"), Container: id("e"), Name: "elsewhere"}}}}
	f := follow(w)
	did, err := w.passes(t, f, 1)
	box := sandboxID(id("1"))[:4]
	same(t, "at first", did, "name "+box+" shop cccc [web cccccccccccc]")
	if err != nil {
		t.Error(err)
	}
	did, _ = w.passes(t, f, 1)
	same(t, "again", did)
	w.ends[id("a")][0].Name = "store"
	did, _ = w.passes(t, f, 1)
	same(t, "renamed", did, "name "+box+" store cccc [web cccccccccccc]")
}

// What Docker has forgotten is removed after two looks that agree: not when it does not answer in between.
func TestWhatDockerHasForgotten(t *testing.T) {
	lost := cnm.Sandbox{ID: sandboxID(id("1")), Engine: cnm.EngineDocker, Handed: true,
		Labels: map[string]string{endpointLabel: id("1")}}
	pod := cnm.Sandbox{ID: id("9"), Engine: cnm.EngineCNI}
	w := &world{boxes: []cnm.Sandbox{lost, pod}}
	f := follow(w)
	if err := f.Store.Commit(t.Context(), cnm.Write{Key: keyOf(id("7")),
		Value: []byte(`{"network": "` + id("8") + `", "made": true}`)}); err != nil {
		t.Fatal(err)
	}
	did, _ := w.passes(t, f, 1)
	same(t, "at first", did)
	w.broken = errors.New("no answer")
	if _, err := w.passes(t, f, 1); err == nil {
		t.Error("no trouble although Docker does not answer")
	}
	w.broken = nil
	did, _ = w.passes(t, f, 1)
	same(t, "the first look since", did)
	did, err := w.passes(t, f, 1)
	same(t, "the second", did, "delete "+lost.ID[:4], "remove ours 8888")
	if err != nil {
		t.Error(err)
	}
	if left, err := f.known(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("records left: %v, %v", left, err)
	}
}

// An address that was reserved goes when no endpoint was made of it: not at once, and not one of the user's.
func TestForgottenReservations(t *testing.T) {
	long, now := time.Now().Add(-2*reservationTime), time.Now()
	at := func(key, addr string, since time.Time) cnm.Reservation {
		return cnm.Reservation{Network: id("1"), Key: key, Addr: netip.MustParsePrefix(addr), Since: since}
	}
	w := &world{networks: []cnm.Network{{ID: id("1"), Name: "web"}}, kept: []cnm.Reservation{
		at("docker/any/OLD", "10.7.0.2/24", long), at("docker/any/NEW", "10.7.0.3/24", now),
		at("docker/at/10.7.0.9", "10.7.0.9/24", long), at("docker/at/fd07::7", "fd07::7/64", long),
		at("cni/x", "10.7.0.4/24", long)}}
	f := follow(w)
	f.Engine = nil
	if err := f.Store.Commit(t.Context(), cnm.Write{Key: keyOf(id("7")),
		Value: []byte(`{"network": "` + id("1") + `", "aux": ["10.7.0.9"]}`)}); err != nil {
		t.Fatal(err)
	}
	did, err := w.passes(t, f, 1)
	same(t, "ended", did, "unreserve docker/any/OLD false", "unreserve docker/at/fd07::7 true")
	if err != nil {
		t.Error(err)
	}
}

// The loop looks when Docker says that something is new, and ends with its context.
func TestTheFollowerRuns(t *testing.T) {
	w := &world{broken: errors.New("no answer")}
	f := follow(w)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { f.Run(ctx); close(done) }()
	for f.Trouble() == nil {
		select {
		case <-done:
			t.Fatal("it has ended")
		case <-time.After(time.Millisecond):
		}
	}
	stop()
	<-done
}
