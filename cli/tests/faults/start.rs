//! Starting, founding, inviting, logging, and every message that repeats what somebody typed.
