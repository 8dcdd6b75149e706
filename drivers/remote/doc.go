// Package remote is the driver of networks that a plugin of Docker's protocol makes. The plugin changes things itself,
// so its calls are made beside the passes, each written down before it is made; what it answers is checked and kept,
// and the driver renders from that alone. docs/design/remote.md tells how.
package remote
