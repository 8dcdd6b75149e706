package engine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/profiles/seccomp"
	"github.com/moby/sys/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/shim"
)

const (
	maxSeccomp = 256 << 10 // bytes of a profile
	maxGroups  = 256
	maxAdj     = 1000
)

// checkSecurity refuses wishes about what a container's processes may do that cannot be met here.
func checkSecurity(s Spec, caps []string) error {
	if s.ShmSize < 0 {
		return invalid("shm-size", strconv.FormatInt(s.ShmSize, 10), "negative", "give a size, or 0 for 64m")
	}
	return errors.Join(checkUlimits(s.Ulimits), checkOOMScoreAdj(s.OOMScoreAdj), checkGroups(s.Groups),
		checkSeccomp(s.Seccomp, caps), checkAppArmor(s.AppArmor))
}

// raises reports whether this process may raise limits of its own kind.
func raises() bool {
	own, err := capability.NewPid2(0)
	return err == nil && own.Load() == nil && own.Get(capability.EFFECTIVE, capability.CAP_SYS_RESOURCE)
}

func checkUlimits(given []shim.Ulimit) error {
	var names []string
	for _, u := range given {
		value := fmt.Sprintf("%s=%d:%d", u.Name, u.Soft, u.Hard)
		limit, err := (&units.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard}).GetRlimit()
		switch {
		case err != nil:
			return invalid("ulimit", value, "no such limit", "see setrlimit(2): nofile, nproc, core, …")
		case slices.Contains(names, u.Name):
			return invalid("ulimit", value, "given twice", "leave one out")
		case u.Soft < -1 || u.Hard < -1:
			return invalid("ulimit", value, "negative", "give a number, or -1 for no limit")
		case limit.Soft > limit.Hard:
			return invalid("ulimit", value, "the soft limit is above the hard one", "write NAME=SOFT:HARD")
		}
		names = append(names, u.Name)
		if err := checkRaise(u, limit, value); err != nil {
			return err
		}
	}
	return nil
}

// checkRaise refuses a hard limit that the kernel would not let us set.
func checkRaise(u shim.Ulimit, limit *units.Rlimit, value string) error {
	var own unix.Rlimit
	if err := unix.Getrlimit(limit.Type, &own); err != nil {
		return fmt.Errorf("learn netd's own limits: %w", err)
	}
	if limit.Hard > own.Max && !raises() {
		return invalid("ulimit", value, fmt.Sprintf("netd has %d itself and may not raise it: it has no "+
			"CAP_SYS_RESOURCE", own.Max), "give no more than that, or start netd with the capability")
	}
	if u.Name != "nofile" {
		return nil
	}
	text, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err != nil {
		return nil // the kernel will tell
	}
	if most, err := strconv.ParseUint(string(bytes.TrimSpace(text)), 10, 64); err == nil && limit.Hard > most {
		return invalid("ulimit", value, fmt.Sprintf("the host's fs.nr_open is %d", most), "give no more than that")
	}
	return nil
}

func checkOOMScoreAdj(adj int) error {
	value := strconv.Itoa(adj)
	if adj < -maxAdj || adj > maxAdj {
		return invalid("oom-score-adj", value, "out of range", "give -1000 to 1000")
	}
	own, err := shim.OOMScoreAdj()
	if err != nil {
		return err
	}
	if adj != 0 && adj < own && !raises() {
		return invalid("oom-score-adj", value, fmt.Sprintf("netd has %d itself and may not go below: it has no "+
			"CAP_SYS_RESOURCE", own), "give no less than that, or start netd with the capability")
	}
	return nil
}

func checkGroups(groups []string) error {
	if len(groups) > maxGroups {
		return invalid("group-add", strings.Join(groups[:3], " ")+" …", "too many",
			fmt.Sprintf("give at most %d", maxGroups))
	}
	for _, g := range groups {
		if g == "" || strings.ContainsAny(g, ":\n\x00") {
			return invalid("group-add", g, "neither a group's name nor its number", "give one of these")
		}
		if n, err := strconv.ParseInt(g, 10, 64); err == nil && (n < 0 || n > 1<<31-1) {
			return invalid("group-add", g, "not a group's number", "give 0 to 2147483647")
		}
	}
	return nil
}

// checkSeccomp refuses a profile that no filter could be made of.
func checkSeccomp(text string, caps []string) error {
	refuse := func(reason string) error {
		shown := text
		if len(shown) > 40 {
			shown = shown[:40] + "…"
		}
		return invalid("security-opt", "seccomp="+shown, reason, "give a profile as Docker has them, or unconfined")
	}
	if text == "" || text == shim.Unconfined {
		return nil
	}
	if len(text) > maxSeccomp {
		return refuse(fmt.Sprintf("larger than %d KiB", maxSeccomp>>10))
	}
	profile, err := seccomp.LoadProfile(text, &specs.Spec{Process: &specs.Process{
		Capabilities: &specs.LinuxCapabilities{Bounding: caps}}})
	if err != nil {
		return refuse(err.Error())
	}
	if profile == nil {
		return refuse("it says nothing about any system call")
	}
	actions := []specs.LinuxSeccompAction{profile.DefaultAction}
	for _, call := range profile.Syscalls {
		actions = append(actions, call.Action)
		if len(call.Names) == 0 || slices.Contains(call.Names, "") {
			return refuse("a rule names no system call")
		}
		for _, arg := range call.Args {
			if arg.Index > 5 || !slices.Contains(seccompOperators, arg.Op) {
				return refuse(fmt.Sprintf("a rule of %s compares argument %d by %q", call.Names[0], arg.Index, arg.Op))
			}
		}
	}
	for _, a := range actions {
		if !slices.Contains(seccompActions, a) {
			return refuse(fmt.Sprintf("action %q", a))
		}
	}
	return nil
}

// seccompActions are those that need nobody else: with ActNotify a process of the host would decide.
var seccompActions = []specs.LinuxSeccompAction{specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap,
	specs.ActErrno, specs.ActTrace, specs.ActAllow, specs.ActLog}

var seccompOperators = []specs.LinuxSeccompOperator{specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual,
	specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual}

func checkAppArmor(profile string) error {
	if profile == "" || profile == shim.Unconfined {
		return nil
	}
	on, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	if err != nil || !bytes.HasPrefix(on, []byte("Y")) {
		return invalid("security-opt", "apparmor="+profile, "the host's kernel has no AppArmor",
			"leave it out, or switch it on")
	}
	if strings.ContainsAny(profile, " \n\x00") {
		return invalid("security-opt", "apparmor="+profile, "not a profile's name", "see 'aa-status' on the host")
	}
	return nil
}
