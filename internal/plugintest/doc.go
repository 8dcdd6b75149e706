// Package plugintest has a network and IPAM plugin of Docker's protocol for tests, which runs in a process of its own.
// It makes bridges and veth pairs with ip(8), remembers what it has made, and hangs, lies, dies or answers garbage when
// a test says so.
package plugintest
