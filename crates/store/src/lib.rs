//! Transactional, versioned, sealed key-value store.
