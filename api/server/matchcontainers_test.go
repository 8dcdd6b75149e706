package server_test

import (
	"context"
	"slices"
	"testing"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/api/server/fake"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/plan"
)

func TestMatchContainers(t *testing.T) {
	d := fake.New()
	defer d.Close()
	ctx := context.Background()
	for _, s := range []engine.Spec{
		{Name: "web", Image: "busybox", Command: []string{"sleep"},
			Ports:    []cnm.PortMapping{{Proto: plan.TCP, HostPort: 8000, Port: 80, Count: 10}},
			Networks: []cnm.AttachRequest{{Network: "bridge"}},
			Mounts:   []engine.Mount{{Source: "data", Target: "/d", Volume: true}, {Source: "/srv", Target: "/s"}}},
		{Name: "dns", Image: "busybox", Command: []string{"sleep"},
			Expose: []plan.NamePort{{Port: 53, Proto: plan.UDP}}},
	} {
		id, _, err := d.Create(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Start(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Edit("dns", func(c *engine.Container) {
		c.Health = &engine.Health{Status: engine.HealthUnhealthy}
		c.Created = c.Created.Add(1)
	}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		filters []string
		want    []string
		all     bool
	}{
		{nil, []string{"dns", "web"}, false},
		{[]string{"health=none"}, []string{"web"}, false},
		{[]string{"health=unhealthy"}, []string{"dns"}, false},
		{[]string{"health=unhealthy", "health=none"}, []string{"dns", "web"}, false},
		{[]string{"volume=data"}, []string{"web"}, false},
		{[]string{"volume=/s"}, []string{"web"}, false},
		{[]string{"volume=x"}, nil, false},
		{[]string{"publish=8009"}, []string{"web"}, false},
		{[]string{"publish=89/TCP"}, []string{"web"}, false},
		{[]string{"publish=1-79"}, nil, false},
		{[]string{"publish=8000/udp"}, nil, false},
		{[]string{"expose=50-60/udp"}, []string{"dns"}, false},
		{[]string{"expose=85"}, []string{"web"}, false},
		{[]string{"before=dns"}, []string{"web"}, true},
		{[]string{"since=web"}, []string{"dns"}, true},
		{[]string{"since=web", "health=none"}, nil, true},
		{[]string{"status=running"}, []string{"dns", "web"}, true},
	} {
		wanted, all, err := server.MatchContainers(ctx, d, c.filters)
		if err != nil {
			t.Errorf("%v: %v", c.filters, err)
			continue
		}
		list, err := d.List(ctx, true)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, ct := range list {
			if wanted(ct) {
				got = append(got, ct.Spec.Name)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, c.want) || all != c.all {
			t.Errorf("%v: %v, and those that do not run %t; want %v", c.filters, got, all, c.want)
		}
	}
	for _, bad := range []string{"health=good", "publish=x", "publish=0", "expose=9-8", "expose=70000", "bogus=1",
		"before=nobody"} {
		if _, _, err := server.MatchContainers(ctx, d, []string{bad}); err == nil {
			t.Errorf("the filter %s is taken", bad)
		}
	}
}
