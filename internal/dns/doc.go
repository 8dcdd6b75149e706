// Package dns answers sandboxes' questions about names: those of their networks from what it was told, others by asking
// servers elsewhere.
//
// Questions come from strangers, and so do the answers of servers elsewhere. Nothing here needs privileges; sockets are
// handed over by somebody who has them.
package dns
