//! The `lacuna` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    lacuna::cli::main()
}
