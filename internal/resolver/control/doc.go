// Package control is how netd and net-resolver talk: requests and answers on a unix socket, with descriptors.
//
// Each message is eight bytes, its length and how many descriptors come with it, and then JSON. Neither side trusts
// the other one's lengths and counts: the resolver has read what strangers sent.
package control
