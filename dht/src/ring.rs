//! Membership and lookup.
