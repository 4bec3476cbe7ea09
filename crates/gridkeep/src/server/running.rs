//! A server that is up, as far as reloading and operators need it.
//!
//! Owns putting a configuration into force while requests are served.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use gridkeep_dialect_vault::SealSwitch;
use gridkeep_dialect_vault::listener::{ReloadableTls, TrustedProxies};
use gridkeep_keeper::cluster::NodeReport;
use gridkeep_keeper::{Keeper, Network, UnixSeconds};
use tokio::sync::watch;

use super::assemble::{self, Issuers};
use super::audit::Audit;
use super::cluster::{self, Occasion, Own, Settled};
use super::{Options, affected, notify, operator, telemetry};
use crate::config::{self, Change, Config, Impact, Loaded, Severity, Surroundings};

/// How long a reload waits for the audit log to be opened anew.
const REOPENING: Duration = Duration::from_secs(5);

/// After which a configuration that could not be put into force is tried again; doubled each time.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// A server that is up, as far as reloading and operators need it.
pub(crate) struct Running {
    pub(super) options: Options,
    pub(super) config: Mutex<Config>,
    pub(super) issuers: tokio::sync::Mutex<Issuers>,
    /// This node's own files, whichever configuration is in force.
    pub(super) own: tokio::sync::Mutex<Own>,
    pub(crate) keeper: Keeper,
    pub(crate) audit: Audit,
    pub(crate) tls: Arc<ReloadableTls>,
    pub(super) proxies: TrustedProxies,
    /// Where it is reached, for people.
    pub(crate) addresses: Vec<String>,
    /// When it began to serve.
    pub(crate) since: UnixSeconds,
    pub(crate) seal: Arc<SealSwitch>,
}

impl Running {
    /// A copy of the configuration in force.
    pub(crate) fn config(&self) -> Config {
        self.config
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What would change if the files were loaded now, in words.
    pub(crate) async fn diff(&self) -> anyhow::Result<operator::DiffAnswer> {
        let loaded = load(&self.options.paths).await?;
        let old = self.config();
        let (loaded, remark) = self.foreseen(loaded).await?;
        let people = affected::People::of(&self.keeper, &old, &loaded).await?;
        let (mut text, mut notes) = (Vec::new(), Vec::new());
        let code = config::commands::show_diff(
            &old,
            &loaded,
            &|change| people.met_by(change),
            &mut text,
            &mut notes,
        )?;
        notes.extend(text);
        let mut text = String::from_utf8_lossy(&notes).into_owned();
        if let Some(remark) = remark {
            text.push_str(&remark);
            text.push('\n');
        }
        Ok(operator::DiffAnswer { text, code })
    }

    /// With the files as `loaded`, what a reload would put in force in their place, and a remark on it.
    async fn foreseen(&self, loaded: Loaded) -> anyhow::Result<(Loaded, Option<String>)> {
        let Some(config) = loaded.config.as_ref().filter(|_| self.keeper.is_shared()) else {
            return Ok((loaded, None));
        };
        let own = Own::of(config, &loaded);
        let before = self.own.lock().await.clone();
        let foreseen = cluster::foresee(self.keeper.store(), &own, &before).await?;
        let loaded = Loaded {
            config: Some(foreseen.config),
            ..loaded
        };
        Ok((loaded, foreseen.remark))
    }

    /// The configuration in force, secrets masked, as `config show --effective` has it.
    pub(crate) fn shown(&self) -> String {
        let config = self.config();
        let mut text = String::new();
        if self.keeper.is_shared() {
            let version = self.keeper.reported().configuration;
            let setup = self.keeper.setup();
            let by = setup.published_by.as_deref().unwrap_or("this node");
            text = format!(
                "# In force on this node: version {version} of the configuration of all nodes, of the files of {by}, with what is this node's own.\n# What its files say and was not loaded yet is not in here; see gridkeep config diff.\n"
            );
        }
        text.push_str(&config::commands::effective(&config));
        text
    }

    /// Reads files, certificate and audit log anew. Whatever cannot be used leaves the old in force.
    pub(crate) async fn reload(&self) {
        notify::tell("RELOADING=1");
        if let Some(audit) = &self.audit.file {
            // Log rotation compresses the old file once the reload is answered.
            if tokio::time::timeout(REOPENING, audit.reopen())
                .await
                .is_err()
            {
                tracing::warn!("the audit log is not opened anew yet: its disk is slow");
            }
        }
        self.tls.read_anew().await;
        let reloaded = self.reload_configuration().await;
        telemetry::RELOAD_FAILED.store(reloaded.is_err(), Ordering::Relaxed);
        if let Err(error) = reloaded {
            tracing::error!(
                "the configuration was not reloaded, the one from before stays in force: {error:#}"
            );
        }
        notify::tell("READY=1");
    }

    async fn reload_configuration(&self) -> anyhow::Result<()> {
        let loaded = load(&self.options.paths).await?;
        let new = accepted(&loaded, self.options.strict)?;
        anyhow::ensure!(
            loaded.is_faultless(),
            "the lines above name errors, and leaving out what they name would cost its users their access"
        );
        self.put_in_force(Some(Own::of(new, &loaded)), Occasion::Reload)
            .await
            .map(drop)
    }

    /// Makes this node's files those of all nodes; says what came of it.
    pub(crate) async fn publish(&self) -> anyhow::Result<String> {
        anyhow::ensure!(
            self.keeper.is_shared(),
            "this server runs alone: a reload puts its files into force"
        );
        let loaded = load(&self.options.paths).await?;
        let new = accepted(&loaded, self.options.strict)?;
        anyhow::ensure!(
            loaded.is_faultless() && !new.issuers.is_empty(),
            "the files have errors or name no issuer, and leaving out issuers would cost their users their access; look at gridkeep config check"
        );
        let own = Own::of(new, &loaded);
        let published = self.put_in_force(Some(own), Occasion::Publish).await?;
        let version = self.keeper.reported().configuration;
        Ok(if published {
            format!(
                "the files of this node are version {version} of the configuration of all nodes"
            )
        } else {
            format!(
                "nothing was published: in what nodes share, the files of this node say what version {version} of the configuration of all nodes says"
            )
        })
    }

    /// Puts what other nodes publish into force.
    pub(super) async fn follow_configuration(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut versions = self.keeper.configuration_versions();
        versions.mark_changed();
        // What failed may be the store's trouble, or a file that is missing here: it is tried again without another publishing.
        let mut again: Option<Duration> = None;
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                changed = versions.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    again = None;
                }
                () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => {}
            }
            let version = *versions.borrow_and_update();
            if version == self.keeper.reported().configuration {
                again = None;
                continue;
            }
            let Err(error) = self.put_in_force(None, Occasion::Seen).await else {
                again = None;
                continue;
            };
            let (trouble, before) = (Some(format!("{error:#}")), self.keeper.reported());
            if before.trouble != trouble {
                tracing::error!(
                    version,
                    "the configuration that all nodes share could not be put into force here, which is tried again: {error:#}"
                );
                self.keeper.report(NodeReport { trouble, ..before });
            }
            again = Some(again.map_or(FIRST_RETRY, |wait| (wait * 2).min(LONGEST_RETRY)));
        }
    }

    /// Puts into force what is due: this node's files, or what the nodes share. Answers whether its files were published.
    async fn put_in_force(&self, own: Option<Own>, occasion: Occasion) -> anyhow::Result<bool> {
        let mut standing = self.own.lock().await;
        let own = own.unwrap_or_else(|| standing.clone());
        let settled = if self.keeper.is_shared() {
            cluster::settle(self.keeper.store(), &own, occasion, Some(&standing)).await?
        } else {
            Settled::alone(&own)
        };
        // Whatever fails from here on is tried again with these files: they may be those of all nodes by now.
        *standing = own;
        let new = &settled.config;
        let old = self.config();
        let changes = config::diff(&old, new);
        let mut issuers = self.issuers.lock().await;
        let mut setup = assemble::setup(new, &mut issuers);
        setup.published_by.clone_from(&settled.by);
        self.keeper.reconfigure(setup).await?;
        self.proxies.set(trusted_proxies(new));
        settled.tell(&self.keeper.reported());
        self.keeper.report(settled.report.clone());
        issuers.forget_unused(new);
        issuers.compare_with_discovery(new);
        for change in &changes {
            tracing::info!(
                key = change.key,
                affected = change.affected,
                "{}",
                change.what
            );
        }
        warn_of_what_needs_a_restart(&changes);
        telemetry::in_force(new);
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = new.clone();
        // What this node has published itself comes back to it, and is in force already.
        if occasion == Occasion::Seen && changes.is_empty() {
            tracing::debug!("the configuration that all nodes share is in force here already");
        } else {
            tracing::info!(changes = changes.len(), "configuration reloaded");
        }
        Ok(settled.published)
    }
}

pub(super) fn trusted_proxies(config: &Config) -> Vec<Network> {
    let proxies = config.gridkeep.trusted_proxies.iter();
    proxies.map(|network| network.value).collect()
}

/// Says which of the changes are not in force yet.
fn warn_of_what_needs_a_restart(changes: &[Change]) {
    let mut keys: Vec<&str> = changes
        .iter()
        .filter(|change| change.impact == Impact::Restart)
        .map(|change| change.key.as_str())
        .collect();
    keys.dedup();
    if !keys.is_empty() {
        let change = if keys.len() == 1 { "changes" } else { "change" };
        tracing::warn!(
            "{} {change} only with a restart of the server; until then it runs with what was before",
            keys.join(", ")
        );
    }
}

/// Reads the files of the configuration.
pub(super) async fn load(paths: &[PathBuf]) -> anyhow::Result<Loaded> {
    let paths = paths.to_vec();
    tokio::task::spawn_blocking(move || config::load(&paths, &Surroundings::of_this_host()))
        .await
        .context("reading the configuration failed")
}

/// The configuration, if it may be used; its findings go to the log.
pub(super) fn accepted(loaded: &Loaded, strict: bool) -> anyhow::Result<&Config> {
    for finding in &loaded.findings {
        match finding.severity {
            Severity::Fatal | Severity::Error => tracing::error!("{finding}"),
            Severity::Warning => tracing::warn!("{finding}"),
            Severity::Info => tracing::info!("{finding}"),
        }
    }
    match &loaded.config {
        Some(config) if loaded.is_acceptable(strict) => Ok(config),
        Some(_) => anyhow::bail!(
            "the configuration has errors or warnings and --strict was given; correct what the lines above say, or start without --strict"
        ),
        None => anyhow::bail!(
            "the configuration cannot be used; correct what the lines above say (gridkeep config check shows it again)"
        ),
    }
}
