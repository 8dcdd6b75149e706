// Package plan describes kernel network state as plain data and computes the
// difference between two such descriptions.
//
// Drivers render a [State]; internal/kern observes one and applies the [Op]
// list that [Diff] returns. Nothing here has side effects, reads the kernel or
// imports anything but the standard library, so every driver can be tested by
// golden text without privileges.
package plan
