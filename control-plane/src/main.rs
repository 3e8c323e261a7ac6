//! The `evermesh` binary.
fn main() {}
