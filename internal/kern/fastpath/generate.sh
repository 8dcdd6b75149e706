#!/bin/sh
# Compiles the programs. The compiler is of one version, so that anyone's objects are the same bytes.
set -eu
cd "$(dirname "$0")"
exec go tool bpf2go -cc clang-14 -strip llvm-strip-14 -no-global-types -target bpfel,bpfeb -cflags \
	"-O2 -g -Wall -Wextra -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu" \
	kernel bpf/fastpath.c
