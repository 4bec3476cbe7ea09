//! What a server that is up does on each order, and the lines of its audit log.

use super::*;
use crate::server::sight;

#[async_trait::async_trait]
impl Desk for Running {
    async fn obey(
        &self,
        caller: u32,
        order: &Order,
        secret: Option<&str>,
    ) -> anyhow::Result<String> {
        perform(caller, order, secret, self).await
    }

    async fn note(
        &self,
        kind: &str,
        caller: u32,
        order: &Order,
        error: Option<String>,
    ) -> anyhow::Result<()> {
        audit(self, kind, caller, order, error).await
    }

    async fn note_refused(&self, refused: Refused) {
        let line = serde_json::json!({
            "time": jiff::Timestamp::now().to_string(),
            "type": "response",
            "request": { "operation": "update", "path": "operator/socket", "caller_uid": refused.caller },
            "error": "refused: neither root nor the server's own user",
            "refused": refused.count,
        });
        let mut bytes = line.to_string().into_bytes();
        bytes.push(b'\n');
        if let Err(error) = self.audit.sink.write(bytes).await {
            tracing::warn!(
                caller = refused.caller,
                calls = refused.count,
                %error,
                "refused calls on the operators' socket could not be noted in the audit log"
            );
        }
    }
}

async fn perform(
    caller: u32,
    order: &Order,
    secret: Option<&str>,
    running: &Running,
) -> anyhow::Result<String> {
    if running.seal.begun() {
        match order {
            Order::Seal => {}
            _ => {
                return Err(turning(
                    "the server was sealed a moment ago and finishes what was under way; try again in a moment",
                ));
            }
        }
    }
    match order {
        Order::Token => {
            let issued = running
                .keeper
                .operator_token(&format!("uid:{caller}"))
                .await?;
            tracing::info!(
                caller,
                accessor = issued.token.accessor,
                "an operator got a token"
            );
            let answer = TokenAnswer {
                token: issued.secret.expose_secret().to_owned(),
                accessor: issued.token.accessor.clone(),
                ttl: issued.token.creation_ttl.0,
            };
            Ok(serde_json::to_string(&answer)?)
        }
        Order::Diff => Ok(serde_json::to_string(&running.diff().await?)?),
        Order::ShowConfig => Ok(running.shown()),
        Order::ClusterStatus => {
            let store = running.keeper.store_status();
            let trouble = store.refusing_writes.map(|error| error.to_string());
            let status = running.keeper.cluster_status();
            let answer = crate::server::cluster::status(&status, store.engine, trouble.as_deref());
            Ok(serde_json::to_string(&answer)?)
        }
        Order::PublishConfig => running.publish().await,
        Order::ConfirmClock => {
            running.keeper.confirm_clock();
            Ok("the server trusts its wall clock".to_owned())
        }
        Order::Status => Ok(serde_json::to_string(&inventory::status(running).await?)?),
        Order::Credentials { below } => Ok(serde_json::to_string(
            &inventory::credentials(running, below).await?,
        )?),
        Order::Tokens { of } => Ok(serde_json::to_string(
            &inventory::tokens(running, of).await?,
        )?),
        Order::Show { which } => Ok(inventory::show(running, which).await?.to_string()),
        Order::Revoke { which } => {
            let done = inventory::revoke(running, which, caller).await?;
            tracing::info!(caller, "{done}");
            Ok(done)
        }
        Order::Seal => {
            running.seal.begin();
            Ok("the server is sealed; requests under way are finished".to_owned())
        }
        Order::Unseal => Ok("the server is unsealed".to_owned()),
        Order::RotateKeyring => {
            let by = format!("uid:{caller}");
            let generation = running.keeper.rotate_keyring(&by).await?;
            Ok(format!(
                "new records are sealed under key {generation}; the others follow in the background"
            ))
        }
        Order::RootKey => Ok(serde_json::to_string(&RootKeyAnswer {
            id: running.keeper.root_key_id().await?,
            credential: KeySource::is_credential(&running.config()),
        })?),
        Order::ReplaceRootKey { .. } | Order::ExpectRootKey => {
            anyhow::ensure!(
                running.seal.kind() == SealKind::Auto,
                "nobody holds the root key of this server, so there is no other to put in its place"
            );
            let key = RootKey::from_text(secret.context("no key came with the order")?.as_bytes())?;
            let id = key.id();
            let Order::ReplaceRootKey { force } = order else {
                return Ok(if running.keeper.expect_root_key(&key).await {
                    format!("root key {id} is expected")
                } else {
                    format!(
                        "root key {id} is expected; the other nodes do not see that yet, because the store does not take this node's heartbeats: see gridkeep cluster status before the key is put in force"
                    )
                });
            };
            make_sure_of_others(running, &key, *force).await?;
            let by = format!("uid:{caller}");
            running.keeper.replace_root_key(&key, &by).await?;
            Ok(id)
        }
        Order::AuditEvidence => {
            if let Some(file) = &running.audit.file
                && let Err(error) =
                    gridkeep_dialect_vault::audit::anchor(file, &running.keeper).await
            {
                tracing::warn!(error, "the end of the audit log could not be noted");
            }
            let evidence = running.keeper.audit_evidence().await?;
            Ok(serde_json::to_string(&EvidenceAnswer::of(&evidence))?)
        }
    }
}

/// Refuses to put a root key in force while other live nodes do not know it, unless that is wanted.
async fn make_sure_of_others(running: &Running, key: &RootKey, force: bool) -> anyhow::Result<()> {
    let refused = |text: String| Refusal::new(Reason::NothingDone, text);
    let without = match running.keeper.nodes_without(key).await {
        Ok(without) => without,
        Err(failure) if force => {
            tracing::warn!(%failure, "a root key is put in force, and whether the other nodes know it could not be seen");
            return Ok(());
        }
        Err(failure) => {
            return Err(refused(format!(
                "whether the other nodes know the new root key cannot be seen: {failure}"
            ))
            .into());
        }
    };
    if without.is_empty() {
        return Ok(());
    }
    let text = sight::not_told(&without, &key.id());
    if !force {
        return Err(refused(text).into());
    }
    tracing::warn!("a root key is put in force by --force although {text}");
    Ok(())
}

/// A line in the audit log: one before anything is done, one with what came of it. While the log cannot be written, lines of orders
/// that pass are left to it for later, as those of requests are.
async fn audit(
    running: &Running,
    kind: &str,
    caller: u32,
    order: &Order,
    error: Option<String>,
) -> anyhow::Result<()> {
    let mut line = serde_json::json!({
        "time": jiff::Timestamp::now().to_string(),
        "type": kind,
        "request": { "operation": "update", "path": "operator/socket", "data": order, "caller_uid": caller },
    });
    if let Some(error) = error {
        line["error"] = error.into();
    }
    let mut bytes = line.to_string().into_bytes();
    bytes.push(b'\n');
    let passes = match running.audit.on_failure {
        AuditFailure::Refuse => false,
        AuditFailure::Revoke => order.cannot_wait(),
        AuditFailure::Serve => true,
    };
    match running.audit.sink.write(bytes.clone()).await {
        Err(AuditError::Write { .. } | AuditError::Overloaded) if passes => {
            // A log that has no room for it says so by itself.
            let _ = running.audit.sink.queue(bytes);
            Ok(())
        }
        done => Ok(done?),
    }
}
