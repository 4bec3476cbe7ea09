//! The test bed of gridkeep.
fn main() {}
