//! Failover, against servers in this process.
