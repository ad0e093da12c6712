# The developer's manual: `just` lists it. CI runs `.ci/run`, which is `just check`.

_default:
    @just --list --unsorted

# Everything that must hold before a change counts.
check:
    .ci/run

# The quick half: format, lints, tests.
quick:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked --features cuda-faults -- -D warnings
    cargo test --features cuda-faults

# Serve the demo model.
serve *options:
    cargo run --release -- serve {{options}}

# Benchmarks of the pure core; name one to run it alone.
bench *name:
    cargo bench {{name}}

# The documentation of the code.
doc:
    cargo doc --workspace --no-deps --open

# Licences, advisories and duplicate versions; needs cargo-deny.
deny:
    cargo deny check
