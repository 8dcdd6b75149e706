// Package resolver is net-resolver's life: it takes sockets and names from netd, and answers.
//
// It has no privileges once it runs, as it reads what strangers send. What it answers it has in memory, so it goes on
// while netd is away; and netd has all of it too, so that another resolver goes on when this one ends.
package resolver
