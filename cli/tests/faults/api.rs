//! The HTTP API under slow, idle and many clients, and its conditional and range requests.
