package doctor

import "strings"

// FastPath is what is known of the fast path of a host that is to have one.
type FastPath struct {
	Missing string // why there is none; "": there is one
	Rules   bool   // others have firewall rules
	// Links are those that rules of others are about; a star at the end stands for anything. What they are about takes
	// the slow path.
	Links []string
}

// fastPath tells what takes the slow path, and who does not see what takes the fast one.
func fastPath(f Facts) []Finding {
	const check = "fast path"
	switch {
	case f.FastPath == nil:
		return nil
	case f.FastPath.Missing != "":
		return finding(check, Info, "there is none, and everything takes the slow path: "+f.FastPath.Missing,
			"boot Linux 5.10 or newer, with CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_ACT and, before 6.6, "+
				"CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF, and let netd call bpf(2); or start netd with "+
				"--fastpath off")
	case len(f.FastPath.Links) > 0:
		return finding(check, Info, "on, but for networks and endpoints whose links rules of others are about: "+
			strings.Join(f.FastPath.Links, ", ")+"; rules that name no link do not see packets between containers of "+
			"one network", "where they must: net network update -o fastpath=off NETWORK")
	case f.FastPath.Rules:
		return finding(check, Info, "on: firewall rules of others do not see packets between containers of one network",
			"where they must: net network update -o fastpath=off NETWORK")
	}
	return fine(check, "on")
}
