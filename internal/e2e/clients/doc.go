// Package clients has the clients of Docker's API that exist speak to netd: docker, compose and docker-py, those of the
// distribution and those of today. Each line of the scripts in testdata runs against a real dockerd and against netd.
// What differs is in the table beside the script, with the reason.
package clients
