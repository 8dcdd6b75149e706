// Package host tells what a network namespace has that is not ours: its uplink and egress, the prefixes in use,
// the firewalls of other tools, what the kernel can do. The one thing that it changes there is an accept in
// the chain of a tool that would drop what our bridges forward.
package host
