// Package attr writes and reads netlink attributes (netlink(7), struct nlattr): a length, a type and a value each,
// padded to four bytes. Routing netlink has its numbers in the byte order of the host, nf_tables in that of the
// network.
package attr
