package cli_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/cli"
)

// offline runs a command line without any netd: what it says is told by the command line alone.
func offline(t *testing.T, env map[string]string, args ...string) (out string, code int) {
	t.Helper()
	var b bytes.Buffer
	app := cli.New("1.0", "abc")
	app.In, app.Out, app.Err, app.Dir = strings.NewReader(""), &b, &b, t.TempDir()
	app.Env = func(key string) (string, bool) {
		if v, ok := env[key]; ok {
			return v, true
		}
		return "unix:///nobody/here", key == "VETHLOOM_HOST"
	}
	code = app.Run(context.Background(), args)
	return b.String(), code
}

// A mistake on the command line is told before anything is asked of netd, with what was given and what to give instead.
func TestMistakesAreToldAtOnce(t *testing.T) {
	for line, words := range map[string][]string{
		"run":                                   {"run", "--help"},
		"run --memory lots busybox":             {"memory", `"lots"`},
		"run --cpus many busybox":               {"cpus", "many"},
		"run -p eighty busybox":                 {"eighty", "8080:80"},
		"run -p 80:90000 busybox":               {"90000"},
		"run -p 8000-8001:80 busybox":           {"8000-8001"},
		"port":                                  {"port", "--help"},
		"port add web":                          {"-p [IP:]"},
		"port add web -p eighty":                {"eighty", "8080:80"},
		"port rm web":                           {"port rm --help"},
		"port rm web 80/igmp":                   {"igmp", "port"},
		"run -v data busybox":                   {"data"},
		"run --memory-swap -2 busybox":          {"memory-swap", `"-2"`, "64m"},
		"run --memory-reservation x busybox":    {"memory-reservation", `"x"`},
		"run --memory-swappiness 200 busybox":   {"memory-swappiness", "0 to 100"},
		"run --pids-limit -2 busybox":           {"pids-limit", "-1 for no limit"},
		"run --blkio-weight 5 busybox":          {"blkio-weight", "10 to 1000"},
		"run --blkio-weight-device /d:1 b":      {"blkio-weight-device", "/dev/X:VALUE"},
		"run --blkio-weight-device /dev/a:1 b":  {"blkio-weight-device", "10 to 1000"},
		"run --device-read-bps /dev/a:x b":      {"device-read-bps", "64m"},
		"run --device-write-iops /dev/a:1k b":   {"device-write-iops", "whole number"},
		"run --device fuse busybox":             {"device", `"fuse"`, "/dev/X"},
		"run --device-cgroup-rule c b":          {"device-cgroup-rule", "MAJOR:MINOR"},
		"run --ulimit nofile=many b":            {"ulimit", "NAME=SOFT"},
		"run --shm-size huge b":                 {"shm-size", `"huge"`},
		"run --tmpfs tmp b":                     {"tmpfs", `"tmp"`, "/PATH"},
		"run --mount type=bind,src=/a b":        {"--mount", "target=/PATH"},
		"run --mount src=/a,dst=/b b":           {"--mount", "type=bind"},
		"run --restart weekly b":                {"restart", "weekly", "on-failure"},
		"run --link : b":                        {"link", "CONTAINER[:ALIAS]"},
		"run --security-opt selinux b":          {"--security-opt", "selinux", "seccomp=FILE"},
		"run --health-timeout soon b":           {"health-timeout", "30s"},
		"run --gpus all b":                      {"gpus", "--device"},
		"update web":                            {"--memory 128m"},
		"update --cpus none web":                {"cpus", "none"},
		"update --volume /x web":                {"--volume", "update --help"},
		"rename web":                            {"rename --help"},
		"top":                                   {"top --help"},
		"restart":                               {"restart --help"},
		"cp web:/x":                             {"cp --help"},
		"logs --since tomorrow web":             {"--since", "tomorrow", "RFC 3339"},
		"events --until tomorrow":               {"--until", "tomorrow", "RFC 3339"},
		"run -v rel/ative:/x busybox":           {"rel/ative"},
		"run -v /a:relative busybox":            {"relative"},
		"run --network name= busybox":           {"network"},
		"run --network web,ip=x busybox":        {"x"},
		"run --ip 10.0.0.300 busybox":           {"10.0.0.300"},
		"run --mac-address zz busybox":          {"zz"},
		"run --add-host web busybox":            {},
		"run --detach-keys ctrl- busybox":       {"ctrl-LETTER"},
		"run --env-file missing busybox":        {"missing"},
		"network create --subnet ten net":       {"ten", "--subnet"},
		"network create --gateway 10.0.0.1 net": {"10.0.0.1", "--subnet"},
		"network create --subnet 10.0.0.0/24 --ip-range 10.1.0.0/28 net":              {"10.1.0.0/28", "10.0.0.0/24"},
		"network create --subnet 10.0.0.0/24 --aux-address 10.0.0.9 net":              {"NAME=ADDRESS"},
		"network create --subnet 10.0.0.0/24 --gateway 10.0.0.1 --gateway 10.0.0.2 n": {"already"},
		"network rm":                  {"rm", "--help"},
		"network connect web":         {"connect", "--help"},
		"logs --since yesterday web":  {"yesterday", "RFC 3339"},
		"kill":                        {"kill", "--help"},
		"ps --frmat x":                {"--frmat", "ps --help"},
		"nonsense":                    {"nonsense"},
		"resume -t 0 web":             {`unknown command "resume" for "net"`},
		"image nonsense -f":           {`unknown command "nonsense" for "net image"`, "image --help"},
		"--nonsense":                  {"net: unknown flag: --nonsense", "net --help"},
		"volume create a b":           {"volume", "create"},
		"pull":                        {"pull", "--help"},
		"pull --progress loud x":      {"loud", "auto, plain, json"},
		"push -q --progress plain x":  {"--progress"},
		"login -p hunter2 r.test":     {"history", "--password-stdin"},
		"login -u ada r.test/team":    {"r.test/team", "has a path"},
		"login --password-stdin":      {"--username"},
		"login a b":                   {"login", "--help"},
		"logout r.test/x":             {"r.test/x"},
		"save":                        {"save", "--help"},
		"save --format zip x":         {"zip", "oci-archive"},
		"run --pull often busybox":    {"often", "always, missing or never"},
		"create --pull often busy":    {"often"},
		"commit":                      {"commit", "--help"},
		"changes --format table x":    {"json"},
		"system df -v --format {{.}}": {"--verbose", "json"},
		"system nonsense":             {`unknown command "nonsense" for "net system"`},
		"system prune":                {},
		"image prune":                 {"--force"},
	} {
		out, code := offline(t, nil, strings.Fields(line)...)
		if code == 0 {
			t.Errorf("net %s: exit code 0, %q", line, out)
		}
		for _, w := range words {
			if !strings.Contains(out, w) {
				t.Errorf("net %s: %q does not say %q", line, out, w)
			}
		}
		if len(words) > 0 && strings.Contains(out, "/nobody/here") {
			t.Errorf("net %s asked netd first: %q", line, out)
		}
	}
}

// What runs a command has exit codes of its own, as Docker's.
func TestExitCodesWithoutNetd(t *testing.T) {
	for line, want := range map[string]int{"run busybox": 125, "exec web sh": 125, "ps": 1, "network ls": 1,
		"create busybox": 1} {
		out, code := offline(t, nil, strings.Fields(line)...)
		if code != want && !(want == 1 && code == 125) || !strings.Contains(out, "/nobody/here") {
			t.Errorf("net %s: exit code %d, %q, want %d and the socket's path", line, code, out, want)
		}
	}
	if out, code := offline(t, nil, "version", "--client"); code != 0 || !strings.Contains(out, "1.0") {
		t.Errorf("net version --client: %d, %q", code, out)
	}
}

// Completion offers the shells' scripts without a netd, and words of flags.
func TestCompletionWithoutNetd(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out, code := offline(t, nil, "completion", shell); code != 0 || !strings.Contains(out, "net") ||
			len(out) < 500 {
			t.Errorf("%s: exit code %d, %d bytes", shell, code, len(out))
		}
	}
	out, _ := offline(t, nil, "__complete", "ps", "--format", "")
	if lines := strings.Split(out, "\n"); !slices.Contains(lines, "json") || !slices.Contains(lines, "table") {
		t.Errorf("for --format it offers %q", out)
	}
	if out, _ := offline(t, nil, "__complete", "inspect", ""); strings.Contains(out, "error") {
		t.Errorf("names without a netd: %q", out)
	}
}

// A socket that cannot be one is told with its name.
func TestHostsThatAreNone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"tcp://10.0.0.1:1", "unix://", "ftp://x", "unix://" + file} {
		out, code := offline(t, map[string]string{"VETHLOOM_HOST": host}, "ps")
		if code == 0 || out == "" || !strings.HasPrefix(out, "net: ") {
			t.Errorf("%s: %d, %q", host, code, fmt.Sprint(out))
		}
	}
}
