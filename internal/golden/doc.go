// Package golden compares what a test got with the text of a file below testdata, and rewrites the file when the
// test runs with -update. It says nothing about how the text is made.
package golden
