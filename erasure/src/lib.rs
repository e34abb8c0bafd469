//! Codes, stripes and verified shards.
