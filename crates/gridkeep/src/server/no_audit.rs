//! The audit log of an operator who switched it off (`cluster.auditlog: none`).

use async_trait::async_trait;
use gridkeep_dialect_vault::{AuditError, AuditSink};

/// Takes every line and keeps none.
#[derive(Debug)]
pub struct NoAudit;

#[async_trait]
impl AuditSink for NoAudit {
    async fn write(&self, _line: Vec<u8>) -> Result<(), AuditError> {
        Ok(())
    }

    fn queue(&self, _line: Vec<u8>) -> Result<(), AuditError> {
        Ok(())
    }
}
