//! The audit log of the server: where it goes, what it is chained with, and noting its end in the store.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use gridkeep_dialect_vault::{AuditChain, AuditFailure, AuditSink, FileAudit, FileAuditOptions};
use gridkeep_keeper::Keeper;

use super::no_audit::NoAudit;
use crate::config::{AuditLog, Config, OnAuditFailure};

/// The audit log as requests write to it, and as a file to be opened anew and anchored, if it is one.
#[derive(Clone)]
pub struct Audit {
    /// What requests write to.
    pub sink: Arc<dyn AuditSink>,
    /// The file behind it.
    pub file: Option<Arc<FileAudit>>,
    /// What is done while it cannot be written.
    pub on_failure: AuditFailure,
}

/// Makes the directory and sees whether the file can be written, before anything else is made.
///
/// # Errors
/// What is wrong with the place.
pub fn probe(config: &Config) -> anyhow::Result<()> {
    let AuditLog::File(path) = &config.cluster.audit_log.value else {
        tracing::warn!(
            "the audit log is switched off (cluster.auditlog: none): nobody will be able to say who fetched which token"
        );
        return Ok(());
    };
    if let Some(directory) = path.parent() {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(directory)
            .with_context(|| format!("the directory of the audit log, {}, cannot be made; make it for the user of the service, or set cluster.auditlog", directory.display()))?;
    }
    FileAudit::probe(path).with_context(|| about(path))
}

/// Opens it, going on where this node's log ended.
///
/// # Errors
/// What is wrong with the file, or that the store cannot be read.
pub async fn open(config: &Config, keeper: &Keeper) -> anyhow::Result<Audit> {
    let AuditLog::File(path) = &config.cluster.audit_log.value else {
        return Ok(Audit {
            sink: Arc::new(NoAudit),
            file: None,
            on_failure: on_failure(config),
        });
    };
    let evidence = keeper.audit_evidence().await?;
    let chain = AuditChain::new(keeper.node(), &evidence, keeper.clock().clone());
    let options = FileAuditOptions::new(path);
    let file = tokio::task::spawn_blocking(move || FileAudit::open(options, chain))
        .await
        .context("opening the audit log failed")?
        .with_context(|| about(path))?;
    let file = Arc::new(file);
    Ok(Audit {
        sink: file.clone(),
        file: Some(file),
        on_failure: on_failure(config),
    })
}

fn about(path: &Path) -> String {
    format!("audit log {}", path.display())
}

/// What the configuration says about a log that cannot be written.
fn on_failure(config: &Config) -> AuditFailure {
    match config.gridkeep.on_audit_failure.value {
        OnAuditFailure::Refuse => AuditFailure::Refuse,
        OnAuditFailure::Revoke => AuditFailure::Revoke,
        OnAuditFailure::Serve => AuditFailure::Serve,
    }
}

impl Audit {
    /// Writes what waits, stops, and notes the end.
    pub async fn close(&self, keeper: &Keeper) {
        let Some(file) = self.file.clone() else {
            return;
        };
        let closing = file.clone();
        // A panic in there has been reported by itself.
        let _ = tokio::task::spawn_blocking(move || closing.close()).await;
        if let Err(error) = gridkeep_dialect_vault::audit::anchor(&file, keeper).await {
            tracing::warn!(error, "the end of the audit log could not be noted");
        }
    }
}
