// Command bench compares vethloom with what does the same job, in one run on one
// machine: the reference CNI bridge plugin, dockerd, runc, and a bridge made by hand; across hosts,
// in a cluster inside this machine, routing by hand and flannel; and for images dockerd, containerd, skopeo and umoci.
//
// Contenders take turns round by round, so that whatever else the machine does falls on
// all of them; medians are compared. It never fails because of a figure. Everything happens in
// network, mount and PID namespaces of its own, which take all traces along when it ends.
package main
