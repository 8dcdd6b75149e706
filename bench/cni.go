package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// cniPath is where Debian's containernetworking-plugins are.
const cniPath = "/usr/lib/cni"

// cni runs the reference plugins as a runtime does: a process per call, the
// configuration on standard input.
type cni struct {
	conf []byte
}

func newCNI(m *machine, masquerade bool) (*cni, error) {
	for _, plugin := range []string{"bridge", "host-local"} {
		if _, err := os.Stat(filepath.Join(cniPath, plugin)); err != nil {
			return nil, err
		}
	}
	name, subnet := "vlcni0", "10.211.0.0/16"
	if masquerade {
		name, subnet = "vlcni1", "10.212.0.0/16"
	}
	return &cni{conf: fmt.Appendf(nil, `{"cniVersion":"1.0.0","name":%q,
		"type":"bridge","bridge":%q,"isGateway":true,"ipMasq":%t,
		"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":%q}]],"routes":[{"dst":"0.0.0.0/0"}]}}`,
		name, name, masquerade, filepath.Join(m.dir, "cni"), subnet)}, nil
}

func (c *cni) call(ctx context.Context, verb, id, netns string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(cniPath, "bridge"))
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+id, "CNI_NETNS="+netns, "CNI_IFNAME=eth0",
		"CNI_PATH="+cniPath)
	cmd.Stdin = bytes.NewReader(c.conf)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("CNI bridge %s: %w: %s", verb, err, strings.TrimSpace(string(out)))
	}
	return nil
}
