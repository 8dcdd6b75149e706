package single

import (
	"encoding/json"
	"strings"
	"testing"
)

// netavark calls the plugin as netavark does, and decodes what it answers.
func (r *runtime) netavark(input, code string, args ...string) map[string]any {
	r.t.Helper()
	res := r.call(strings.ReplaceAll(input, "SOCKET", r.socket()), nil, program(r.t, "vethloom-cni"), args...)
	if want := code == "0"; (res.code == 0) != want {
		r.t.Fatalf("%v: exit code %d, want %s: %s%s", args, res.code, code, res.out, res.err)
	}
	if res.out == "" {
		return nil
	}
	var out map[string]any
	if err := json.Unmarshal([]byte(res.out), &out); err != nil {
		r.t.Fatalf("%v: %v: %s", args, err, res.out)
	}
	return out
}

// What Podman 5 writes for a network that was made with: podman network create -d vethloom -o net=web front
const front = `{"name": "front", "id": "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9",
	"driver": "vethloom", "network_interface": "podman1", "created": "2026-11-20T10:00:00Z", "ipv6_enabled": false,
	"internal": false, "dns_enabled": true, "options": {"net": "web", "socket": "SOCKET"},
	"ipam_options": {"driver": "host-local"}`

const inFront = `{"container_id": "1a5f2a0c9b8d", "container_name": "shop", "port_mappings": [
	{"container_port": 80, "host_ip": "", "host_port": 8080, "protocol": "tcp", "range": 1}],
	"network": ` + front + `, "subnets": []}, "network_options": {"interface_name": "eth0", "aliases": ["cart"],
	"static_ips": ["10.7.0.77"], "static_mac": "02:00:00:00:00:77"}}`

// A container of Podman's, by the calls that netavark makes of a plugin, is on a network with ours.
func TestContainersOfNetavark(t *testing.T) {
	n := withImage(t)
	r := newRuntime(n)
	is(t, "version of the API", r.netavark("", "0", "info")["api_version"].(string), "1.0.0")
	made := r.netavark(front+"}", "1", "create")
	matches(t, "a network that there is none of", made["error"].(string), `network "web": not found`)
	made = r.netavark(strings.Replace(front, `"net": "web"`, `"color": "red"`, 1)+"}", "1", "create")
	matches(t, "an option that there is none of", made["error"].(string), `"color"`)
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "--subnet", "fd07::/64", "web")
	n.ok("run", "-d", "--name", "db", "--network", "web", "bb", "sleep", "1000")
	made = r.netavark(front+`, "subnets": [{"subnet": "10.9.0.0/24"}]}`, "1", "create")
	matches(t, "another subnet", made["error"].(string), `subnet 10\.9\.0\.0/24: network web is there.*-o net=NAME`)
	made = r.netavark(front+"}", "0", "create")
	is(t, "interface of the network", made["network_interface"].(string), "podman1")
	subnets, _ := json.Marshal(made["subnets"])
	is(t, "subnets", string(subnets),
		`[{"gateway":"10.7.0.1","subnet":"10.7.0.0/24"},{"gateway":"fd07::1","subnet":"fd07::/64"}]`)

	c := r.box("podman")
	got := r.netavark(inFront, "0", "setup", c.NetNS)
	text, _ := json.Marshal(got)
	is(t, "what setup answers", string(text), `{"dns_search_domains":[],"dns_server_ips":["127.0.0.11"],`+
		`"interfaces":{"eth0":{"mac_address":"02:00:00:00:00:77","subnets":[`+
		`{"gateway":"10.7.0.1","ipnet":"10.7.0.77/24"},{"gateway":"fd07::1","ipnet":"fd07::3/64"}]}}}`)
	n.says(c.NetNS, "shop")
	for _, name := range []string{"shop", "cart", "10.7.0.77"} {
		is(t, "what "+name+" answers", n.ok("exec", "db", "sh", "-c", "echo | nc -w 3 "+name+" 80"), "shop")
	}
	is(t, "what the port answers", n.Sh("echo | busybox nc -w 3 127.0.0.1 8080"), "shop\n")
	for path, why := range map[string]string{"/none": "does not exist", c.NetNS: "that of netavark container"} {
		other := strings.Replace(inFront, "1a5f2a0c9b8d", "another", 1)
		other = strings.NewReplacer("10.7.0.77", "10.7.0.78", "00:77", "00:78", "8080", "8081").Replace(other)
		matches(t, "a namespace that is not taken", r.netavark(other, "1", "setup", path)["error"].(string), why)
	}
	r.lose("podman")
	r.netavark(inFront, "0", "teardown", c.NetNS)
	r.netavark(inFront, "0", "teardown", c.NetNS)
	is(t, "containers", n.attached(), "1")
}
