// Package conntrack has the kernel forget connections that a change of the rules has cut off.
package conntrack
