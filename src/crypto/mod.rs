//! Rank 1: everything cryptographic, pure and synchronous: no I/O, no clock, no random source of its own.
