package cnm_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// TestStoredAttachRequest reads what containers' records hold: they outlive upgrades.
func TestStoredAttachRequest(t *testing.T) {
	const stored = `{"network":"web","addrs":["10.0.0.7"],"mac":[2,0,0,0,0,1],"aliases":["a"],"priority":5}`
	var got cnm.AttachRequest
	if err := json.Unmarshal([]byte(stored), &got); err != nil {
		t.Fatal(err)
	}
	want := cnm.AttachRequest{Network: "web", MAC: plan.MAC{2, 0, 0, 0, 0, 1}, Aliases: []string{"a"}, GwPriority: 5}
	if len(got.Addrs) != 1 || got.Addrs[0].String() != "10.0.0.7" {
		t.Errorf("addresses %v", got.Addrs)
	}
	got.Addrs = nil
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	got.Addrs = want.Addrs
	if again, err := json.Marshal(got); err != nil ||
		string(again) != `{"network":"web","mac":[2,0,0,0,0,1],"aliases":["a"],"priority":5}` {
		t.Errorf("written as %s, %v", again, err)
	}
}

func TestOwnersNameTheirRecord(t *testing.T) {
	const id = "0123456789abcdef0123456789abcdef"
	for kind, owner := range map[cnm.Kind]plan.Owner{
		cnm.KindNetwork:  cnm.NetworkOwner(id),
		cnm.KindSandbox:  cnm.SandboxOwner(id),
		cnm.KindEndpoint: cnm.EndpointOwner(id),
	} {
		if k, short, ok := cnm.ParseOwner(owner); k != kind || short != id[:cnm.ShortLen] || !ok {
			t.Errorf("%s is read as %s, %s, %v", owner, k, short, ok)
		}
	}
	for _, other := range []plan.Owner{"fabric", "network/", "peer/a/b", ""} {
		if k, short, ok := cnm.ParseOwner(other); ok {
			t.Errorf("%q belongs to no record, but is read as %s %s", other, k, short)
		}
	}
}
