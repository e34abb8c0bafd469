//! The `mutualstore` command line.
fn main() {}
