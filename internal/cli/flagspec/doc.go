// Package flagspec parses the little languages of net's flags: published
// ports, mounts, sizes, networks with options, environment. It knows their
// grammar and their limits; whether a thing exists is for the daemon to say.
//
// Every error names the flag's value, what is wrong with it and what would do.
package flagspec
