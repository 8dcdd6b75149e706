package cluster_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/cluster"
)

// A change of a network is everywhere, and of changes by several nodes at once none is lost.
func TestAnUpdateIsEverywhere(t *testing.T) {
	ctx, _, one, two := pair(t, cluster.Times{})
	for _, driver := range []string{"overlay", "vxlan"} {
		one.create(ctx, driver, driver, "10.1.0.0/16")
		two.adopted(ctx, driver)
		one.mustAttach(ctx, driver)
		two.mustAttach(ctx, driver)
		var calls sync.WaitGroup
		for i, h := range []*host{one, two} {
			calls.Go(func() {
				for j := range 3 {
					label := map[string]string{fmt.Sprintf("by%d-%d", i, j): "x"}
					_, err := h.Controller.UpdateNetwork(ctx, driver, cnm.NetworkChange{Labels: label,
						Options: map[string]string{"mtu": fmt.Sprint(1300 + 10*i + j)}})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		calls.Wait()
		var a, b cnm.Network
		await.True(t, driver+": both nodes have all changes", func() bool {
			var err, err2 error
			a, err = one.Controller.Network(ctx, driver)
			b, err2 = two.Controller.Network(ctx, driver)
			return errors.Join(err, err2) == nil && len(a.Labels) == 6 && len(b.Labels) == 6 &&
				a.Options["mtu"] == b.Options["mtu"]
		})
		if _, err := one.Controller.UpdateNetwork(ctx, driver, cnm.NetworkChange{
			Options: map[string]string{"vni": "77"}}); !errors.Is(err, cnm.ErrForbidden) {
			t.Errorf("%s: another VNI: %v", driver, err)
		}
		if p := append(one.Member.Problems(), two.Member.Problems()...); len(p) > 0 {
			t.Errorf("problems %q", p)
		}
		for _, h := range []*host{one, two} {
			sandboxes, err := h.Controller.Sandboxes(ctx)
			for _, s := range sandboxes {
				err = errors.Join(err, h.Controller.DeleteSandbox(ctx, s.ID))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		await.Done(t, "the network is removed", func() error {
			_, err := one.Controller.DeleteNetwork(ctx, driver)
			return err
		})
		await.True(t, "and gone there", func() bool {
			_, err := two.Controller.Network(ctx, driver)
			return errors.Is(err, cnm.ErrNotFound)
		})
	}
}
