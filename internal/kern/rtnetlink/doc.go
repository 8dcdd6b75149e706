// Package rtnetlink speaks the routing netlink protocol (rtnetlink(7)) in one network namespace: messages
// that make, change and remove links, addresses, routes, neighbours and forwarding entries, sent many at a time,
// and what the kernel answers, read into the types of a plan.
//
// What is ours and what to do about it is decided above.
package rtnetlink
