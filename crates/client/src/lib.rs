//! What runs on a user's machine: the htgettoken family.
