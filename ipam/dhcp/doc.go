// Package dhcp gives endpoints on a LAN the IPv4 addresses that the LAN's DHCP server has for them (RFC 2131), and
// keeps the leases. The messages are the library's (insomniacslk/dhcp); what is believed of an answer is decided here.
package dhcp
