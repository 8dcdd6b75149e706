// Package lab builds a cluster of hosts inside one machine: each host is a network
// namespace with a netd of its own, all joined by an isolated underlay that has no
// way to the machine's own network. Tests and netlab(1) use it.
//
// A lab lives in one directory. Everything that belongs to it can be found from there
// alone (namespaces are pinned below it, processes are in those namespaces or in
// the lab's cgroups), so that [Down] removes a lab whatever was killed before,
// and nothing else.
package lab
