// Package script runs the labs: Markdown documents with commands in fenced blocks,
// executed on the hosts of a lab, and with blocks that say what must come out.
//
// A document begins with a heading, and says in a block `lab` what it needs:
//
//	```lab
//	--nodes 3 --ipv6
//	```
//
// A block `run` holds commands. Each begins with the host it runs on; lines that begin
// with a space continue the command above.
//
//	```run
//	n1$ ip addr add 10.0.0.1/24 dev a
//	n1! ping -c1 10.0.0.9            must fail
//	n1& tcpdump -nc1 -i a            goes on in the background until the block ends
//	lab$ kill n2                     a fault, as netlab fault has them
//	n1$ web=$(net inspect …)         keeps the output as $web for later commands
//	```
//
// A block `run until` is repeated until what is expected comes out. A block `expect` has
// regular expressions, one a line, found in the output of the block above in
// this order; one that begins with "! " must not be found at all. Variables of
// earlier commands, and the hosts' addresses ($n1, $n1_6), may be used in it as ${name}.
package script
