//! Rebuilds the crate when a check file changes: `include_dir!` alone is not noticed by cargo.
fn main() {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "cargo:rerun-if-changed=checks");
}
