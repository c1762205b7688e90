//! The `jacobi` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    jacobi_cli::main(std::env::args_os())
}
