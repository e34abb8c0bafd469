//! A member that lies: forged trims, false claims, stolen pending shards.
