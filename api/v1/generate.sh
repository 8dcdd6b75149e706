#!/bin/sh
# Writes the Go code of vethloom.proto, with the plugins that go.mod names.
set -eu
relative=paths=source_relative
exec protoc -I. \
	--plugin=protoc-gen-go="$(go tool -n protoc-gen-go)" --go_out=. --go_opt=$relative \
	--plugin=protoc-gen-go-grpc="$(go tool -n protoc-gen-go-grpc)" --go-grpc_out=. --go-grpc_opt=$relative \
	vethloom.proto
