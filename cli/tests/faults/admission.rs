//! Who gets in: idle sockets, copies of an identity, contacts that somebody else forged.
