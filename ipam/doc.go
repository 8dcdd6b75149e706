// Package ipam gives networks their subnets and endpoints their addresses.
//
// Every address in use is a record of [cnm.KindAddress], committed together with the
// record of its owner. What is kept in memory, a bitmap a pool and who holds
// what, is rebuilt from the store by [New] and makes a claim cost microseconds. IPv4 and
// IPv6 share every line: an address is a 128-bit number.
package ipam
