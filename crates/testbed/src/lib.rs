//! Token issuer, demo and faults for tests; nothing of it is in production.
