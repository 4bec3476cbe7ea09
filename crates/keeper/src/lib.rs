//! The domain: grants, credentials, keeper tokens, rules, refresh engine, login sessions, events.
