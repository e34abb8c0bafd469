//! Wire messages of MutualStore and their validated conversions.
