package single

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// dirImage writes an image as skopeo's dir: transport has it (containers-transports(5)).
func dirImage(t *testing.T, rootfs string) string {
	t.Helper()
	dir := t.TempDir()
	layer, err := os.ReadFile(rootfs)
	if err != nil {
		t.Fatal(err)
	}
	type blob struct {
		MediaType string `json:"mediaType"`
		Size      int    `json:"size"`
		Digest    string `json:"digest"`
	}
	add := func(mediaType string, data []byte) blob {
		sum := sha256.Sum256(data)
		name := hex.EncodeToString(sum[:])
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		return blob{mediaType, len(data), "sha256:" + name}
	}
	l := add("application/vnd.docker.image.rootfs.diff.tar", layer)
	config := add("application/vnd.docker.container.image.v1+json", []byte(`{"architecture":"amd64","os":"linux",
		"config":{"Cmd":["echo","from skopeo"]},"rootfs":{"type":"layers","diff_ids":["`+l.Digest+`"]}}`))
	manifest, err := json.Marshal(struct {
		SchemaVersion int    `json:"schemaVersion"`
		MediaType     string `json:"mediaType"`
		Config        blob   `json:"config"`
		Layers        []blob `json:"layers"`
	}{2, "application/vnd.docker.distribution.manifest.v2+json", config, []blob{l}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"manifest.json": manifest,
		"version": []byte("Directory Transport Version: 1.1\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
