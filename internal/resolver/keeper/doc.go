// Package keeper is netd's side of net-resolver: it starts the process, tells it names, hands sockets over, and has
// all of that itself, so that another process goes on with the same sockets when this one ends.
//
// The process outlives netd. What it answers then is found again when netd starts.
package keeper
