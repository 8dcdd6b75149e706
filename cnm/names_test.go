package cnm_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

func TestDNSNames(t *testing.T) {
	long, name253 := strings.Repeat("x", 63), strings.Repeat("a.", 126)+"a"
	for name, want := range map[string]bool{
		"web": true, "Web_1": true, "a.b-c": true, "1234": true, long: true, name253: true, "_x": true,
		"": false, ".": false, "a..b": false, ".a": false, "a.": false, long + "x": false, name253 + "b": false,
		"münchen": false, "a b": false, "a\n": false, "\x1b[2J": false, "a/b": false, "*": false,
	} {
		if got := cnm.IsDNSName(name); got != want {
			t.Errorf("%q is a name: %v, want %v", name, got, want)
		}
	}
	e := cnm.Endpoint{Name: "Web", Aliases: []string{"www", "web", "WWW.", long + "x", "ü"}, Hostname: "h.example",
		Sandbox: strings.Repeat("ab", 32), Serves: []plan.NamePort{{Proto: plan.TCP, Port: 80}},
		Ports: []cnm.PortMapping{{Proto: plan.TCP, Port: 80, Count: 2}, {Proto: plan.UDP, Port: 1000, Count: 60000}}}
	if diff := cmp.Diff([]string{"web", "www", "abababababab", "h.example"}, cnm.DNSNames(e)); diff != "" {
		t.Error(diff)
	}
	ports := cnm.DNSPorts(e)
	if len(ports) != 256 || ports[0].Port != 80 || ports[1].Port != 81 || ports[255].Port != 1253 {
		t.Errorf("%d ports, the last %v", len(ports), ports[len(ports)-1])
	}
}
