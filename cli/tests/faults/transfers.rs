//! Puts of slow and changing sources, and listings of many files.
