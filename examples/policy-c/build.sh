#!/bin/sh
# Compiles policy.c to a core module, out/policy.core.wasm. CLANG may name another clang; lld has to be there.
# The component is then made by: outrigger policy build --embed load-balancer out/policy.core.wasm
set -eu
cd "$(dirname "$0")"
mkdir -p out
# A stack of 64 KiB, at the bottom of memory: overflowing it traps at address 0 and cannot touch data.
${CLANG:-clang} --target=wasm32 -O2 -Wall -Wextra -Werror -ffreestanding -nostdlib -fno-builtin \
    -Wl,--no-entry -Wl,--stack-first -Wl,-z,stack-size=65536 -Wl,--strip-all \
    -o out/policy.core.wasm policy.c
echo "out/policy.core.wasm"
