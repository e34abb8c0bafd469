//! Who must hold which shard.
