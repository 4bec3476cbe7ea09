//! The gridkeep program.
fn main() {}
