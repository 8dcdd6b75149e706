// Package logfile is a container's log on disk: JSON lines in a bounded number
// of files, written by net-shim and read, also while it grows, by netd.
//
// A line of output is {"time":…,"stream":"stdout","text":"…"}. Output without a
// newline at its end carries "partial":true, bytes that are no UTF-8 are in
// "bytes" (base64) instead of "text". The newest file has the log's own name,
// older ones the suffixes .1, .2 ….
package logfile
