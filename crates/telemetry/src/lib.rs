//! Logs of every gridkeep program: one way to set them up.
