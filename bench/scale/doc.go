// Scale measures what a large cluster costs a node: hundreds of members that join one etcd at once, what one further
// lease costs a node that knows many, and an overlay network with thousands of endpoints, on
// a kernel in memory and on a real one. Run it with `make bench-scale`.
package main
