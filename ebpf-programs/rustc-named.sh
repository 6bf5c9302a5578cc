#!/usr/bin/env bash
# The compiler for `cargo xtask ebpf`, as cargo calls it (RUSTC_WRAPPER): rustc and its arguments.
#
# Cargo tells rustc crates apart by a hash in which the path of the checkout and of the toolchain
# takes part. It goes into the names of symbols, LLVM works in the order of names, and so the same
# source made other code in another folder. Here a crate is told by its name and version alone.
set -euo pipefail
arguments=()
for argument in "$@"; do
    case $argument in
    metadata=*) argument="metadata=${CARGO_PKG_NAME:?cargo sets it}-${CARGO_PKG_VERSION:?}" ;;
    esac
    arguments+=("$argument")
done
exec "${arguments[@]}"
