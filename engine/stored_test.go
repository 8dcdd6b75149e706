package engine_test

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/plan"
)

// storedContainer is a record as netd wrote it before requests for networks and options of
// net-shim were types that others use too.
const storedContainer = `{
 "id":"ID","imageID":"sha256:b","created":"2026-01-31T12:00:00Z","status":"created","exitCode":0,"phase":"active",
 "sandbox":"ID","spec":{"name":"old","image":"busybox","command":["sleep","9"],"memory":67108864,
 "nanoCPUs":500000000,"pidsLimit":32,"capAdd":["NET_ADMIN"],"privileged":true,"readOnly":true,
 "stopTimeout":3000000000,"dns":["9.9.9.9"],
 "networks":[{"network":"web","addrs":["10.5.0.7","fd00:5::7"],"mac":[2,66,10,0,0,5],"aliases":["a"],"priority":7},
 {"network":"db","mac":[0,0,0,0,0,0]}],
 "ports":[{"proto":"tcp","hostIP":"127.0.0.1","hostPort":8080,"port":80,"count":1}],
 "mounts":[{"source":"/srv","target":"/data","readOnly":true}]}}`

func TestRecordsOfEarlierVersionsAreRead(t *testing.T) {
	w := newWorld(t)
	id := strings.Repeat("ab", 32)
	value := []byte(strings.ReplaceAll(storedContainer, "ID", id))
	if err := w.store.Commit(t.Context(), cnm.Write{Key: cnm.Key{Kind: cnm.KindContainer, ID: id},
		Value: value}); err != nil {
		t.Fatal(err)
	}
	w.restart()
	got := w.inspect("old").Spec
	addr := netip.MustParseAddr
	want := engine.Spec{
		Name: "old", Image: "busybox", Command: []string{"sleep", "9"}, Hostname: got.Hostname,
		Options: engine.Options{Resources: engine.Resources{Memory: 64 << 20, NanoCPUs: 500_000_000, PidsLimit: 32},
			Privileged: true,
			ReadOnly:   true},
		CapAdd: []string{"NET_ADMIN"}, StopTimeout: 3 * time.Second, DNS: []netip.Addr{addr("9.9.9.9")},
		Networks: []cnm.AttachRequest{
			{Network: "web", Addrs: []netip.Addr{addr("10.5.0.7"), addr("fd00:5::7")},
				MAC: plan.MAC{2, 0x42, 10, 0, 0, 5}, Aliases: []string{"a"}, GwPriority: 7},
			{Network: "db"}},
		Ports: []cnm.PortMapping{{Proto: plan.TCP, HostIP: addr("127.0.0.1"), HostPort: 8080, Port: 80,
			Count: 1}},
		Mounts: []engine.Mount{{Source: "/srv", Target: "/data", ReadOnly: true}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}
