//! Noting in the store, each second, where the audit log ends: only after that part of it is on the disk, so that nothing that was
//! noted is lost by itself.

use std::sync::Arc;
use std::time::Duration;

use gridkeep_keeper::Keeper;
use tokio::sync::watch;

use super::FileAudit;

/// How often.
const PERIOD: Duration = Duration::from_secs(1);

/// Notes the end of the log now, if it has moved.
///
/// # Errors
/// When the file cannot be brought onto the disk or the store cannot be written, in words.
pub async fn anchor(audit: &Arc<FileAudit>, keeper: &Keeper) -> Result<(), String> {
    let settling = audit.clone();
    let end = tokio::task::spawn_blocking(move || settling.settle())
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    if let Some(mut end) = end {
        end.at = keeper.now();
        keeper
            .anchor_audit(&end)
            .await
            .map_err(|failure| failure.to_string())?;
        audit.settled(end.seq);
    }
    Ok(())
}

/// Does so each second until told to stop.
pub async fn keep_anchored(audit: Arc<FileAudit>, keeper: Keeper, mut stop: watch::Receiver<bool>) {
    let mut troubled = false;
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        match anchor(&audit, &keeper).await {
            Ok(()) if troubled => {
                troubled = false;
                tracing::info!("the end of the audit log is noted again");
            }
            Err(error) if !troubled => {
                troubled = true;
                tracing::warn!(
                    error,
                    "the end of the audit log could not be noted; lines from now on could be removed unnoticed until it can"
                );
            }
            Ok(()) | Err(_) => {}
        }
    }
}
