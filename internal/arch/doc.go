// Package arch holds no code: its tests keep the rules of docs/design/architecture.md
// that a compiler does not know, such as who may import whom.
package arch
