//! The target that this binary has the name of.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mutualstore_fuzz::run(env!("CARGO_BIN_NAME"), bytes));
