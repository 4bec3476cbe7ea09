//! What operators ask the running server: its state, what is stored for whom, and what shall be revoked.
//!
//! Owns putting the answers together, as JSON that the operators' commands print or turn into text. Refuses to know who may ask.

use std::time::Duration;

use anyhow::Context as _;
use gridkeep_dialect_vault::describe;
use gridkeep_keeper::{BadInput, CredentialName, Failure, UnixSeconds};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Running, sight};
use crate::config::CERTIFICATE_DAYS;

/// Credentials and tokens that are looked at for one answer; more are said to be there and not shown.
const MOST: usize = 5000;
/// Credentials that are named in the state of the server, for each reason.
const NAMED: usize = 50;
/// How long the store may take to tell what it holds: the rest of the state is told anyway.
const COUNTING: Duration = Duration::from_secs(6);

/// The state of the server and of what it keeps.
#[derive(Debug, Serialize, Deserialize)]
pub struct StatusAnswer {
    /// Its version.
    pub version: String,
    /// The name of the service.
    pub service: String,
    /// Since when it runs, RFC 3339.
    pub since: String,
    /// Where it listens.
    pub listen: Vec<String>,
    /// Whether its wall clock is in doubt.
    pub clock_doubtful: bool,
    /// Days until its certificate ends.
    pub certificate_days: Option<i64>,
    /// Whether it passes requests to other nodes, because it does not have its store or its clock is not theirs.
    #[serde(default)]
    pub passes_on: bool,
    /// Its store.
    pub store: StoreState,
    /// Errors in the configuration in force, each with its place; what they name is not served.
    #[serde(default)]
    pub left_out: Vec<String>,
    /// Its issuers.
    pub issuers: Vec<IssuerState>,
    /// Vault tokens that are alive; `None` when the store did not tell.
    pub tokens: Option<usize>,
    /// Logins that wait to be revoked at their issuers, and how many of them were tried in vain.
    pub revocations: (usize, usize),
    /// Credentials that do not work.
    pub failing: Vec<Value>,
    /// Credentials whose absolute or idle end is less than a week away.
    pub ending: Vec<Value>,
    /// Credentials that work and whose idle end has passed: they are not kept alive any more.
    #[serde(default)]
    pub ended: usize,
    /// Whether there is more than was looked at.
    pub cut: bool,
}

/// The store, as the server sees it.
#[derive(Debug, Serialize, Deserialize)]
pub struct StoreState {
    /// Name of the engine.
    pub engine: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// Records, if known.
    pub entries: Option<u64>,
    /// Why it takes no writes, or does not answer.
    pub trouble: Option<String>,
}

/// An issuer, as the server sees it.
#[derive(Debug, Serialize, Deserialize)]
pub struct IssuerState {
    /// Its name.
    pub name: String,
    /// Its URL.
    pub url: String,
    /// Why it cannot be asked, when it could not be the last time.
    pub trouble: Option<String>,
    /// With which words it refuses this server as its client.
    #[serde(default)]
    pub client_refused: Option<String>,
    /// When it last answered, RFC 3339.
    pub last_answer: Option<String>,
    /// Credentials stored; `None` when the store did not tell.
    pub credentials: Option<usize>,
    /// How many of them do not work.
    pub failing: Option<usize>,
}

impl StatusAnswer {
    /// Whether an operator should do something.
    pub fn needs_attention(&self) -> bool {
        self.clock_doubtful
            || self.passes_on
            || self.store.trouble.is_some()
            || !self.left_out.is_empty()
            || self
                .certificate_days
                .is_some_and(|days| days < CERTIFICATE_DAYS)
            || self
                .issuers
                .iter()
                .any(|issuer| issuer.trouble.is_some() || issuer.client_refused.is_some())
            || !self.failing.is_empty()
            || self.revocations.1 > 0
    }
}

/// A list of credentials or tokens.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listing {
    /// What was found.
    pub found: Vec<Value>,
    /// Whether there is more.
    pub more: bool,
}

fn date(at: UnixSeconds) -> String {
    jiff::Timestamp::from_second(at.0).map_or_else(|_| at.0.to_string(), |time| time.to_string())
}

/// The state of the server.
pub(crate) async fn status(running: &Running) -> anyhow::Result<StatusAnswer> {
    let keeper = &running.keeper;
    let config = running.config();
    let now = keeper.now();
    let store = keeper.store_status();
    let states = keeper.issuer_status();
    let setup = keeper.setup();
    let issuers = setup.issuers.iter().map(|issuer| {
        let state = states
            .iter()
            .find(|(name, _)| *name == issuer.name)
            .map(|(_, state)| state);
        IssuerState {
            name: issuer.name.clone(),
            url: issuer.url.clone(),
            trouble: state.and_then(|state| state.last_error.clone()),
            client_refused: state.and_then(|state| state.client_refused.clone()),
            last_answer: state
                .and_then(|state| state.last_success)
                .map(|at| date(UnixSeconds(at))),
            credentials: None,
            failing: None,
        }
    });
    let mut answer = StatusAnswer {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        service: config.service_name().value,
        since: date(running.since),
        listen: running.addresses.clone(),
        clock_doubtful: keeper.clock_doubtful(),
        certificate_days: running.tls.days_left(now),
        passes_on: !keeper.serves(),
        store: StoreState {
            engine: store.engine.to_owned(),
            bytes: store.bytes,
            entries: store.entries,
            trouble: store
                .refusing_writes
                .map(|error| error.to_string())
                .or_else(|| sight::trouble(&keeper.cluster_status())),
        },
        left_out: config.faults.iter().map(ToString::to_string).collect(),
        issuers: issuers.collect(),
        tokens: None,
        revocations: (0, 0),
        failing: Vec::new(),
        ending: Vec::new(),
        ended: 0,
        cut: false,
    };
    // What is in memory is told whatever the store does.
    let counted = tokio::time::timeout(COUNTING, count(running, now, &mut answer)).await;
    let trouble = match counted {
        Ok(Ok(())) => None,
        Ok(Err(failure)) => Some(failure.to_string()),
        Err(_) => Some(format!(
            "it did not tell within {} s what it holds",
            COUNTING.as_secs()
        )),
    };
    answer.store.trouble = answer.store.trouble.or(trouble);
    Ok(answer)
}

/// Puts what the store holds into `answer`.
async fn count(
    running: &Running,
    now: UnixSeconds,
    answer: &mut StatusAnswer,
) -> Result<(), Failure> {
    let keeper = &running.keeper;
    for issuer in &mut answer.issuers {
        let stored = keeper
            .credentials_in_detail(Some(&issuer.name), MOST, |_| true)
            .await?;
        answer.cut |= stored.more;
        let mut bad = 0;
        for details in &stored.found {
            let list = if details.trouble.is_some() {
                bad += 1;
                &mut answer.failing
            } else if details.ends_soon(now) {
                &mut answer.ending
            } else {
                answer.ended += usize::from(details.has_ended(now));
                continue;
            };
            if list.len() < NAMED {
                list.push(Value::from(describe::credential(details)));
            } else {
                answer.cut = true;
            }
        }
        issuer.credentials = Some(stored.found.len());
        issuer.failing = Some(bad);
    }
    let tokens = keeper.live_tokens(MOST, |_| true).await?;
    answer.tokens = Some(tokens.found.len());
    answer.cut |= tokens.more;
    let pending = keeper.pending_revocations().await?;
    answer.revocations = (pending.count, pending.tried);
    Ok(())
}

/// The credentials whose names begin with `below`, all for an empty text.
pub(crate) async fn credentials(running: &Running, below: &str) -> anyhow::Result<Listing> {
    let keeper = &running.keeper;
    let issuer = below.split_once('/').map(|(issuer, _)| issuer);
    let found = keeper
        .credentials_in_detail(issuer, MOST, |name| name.to_string().starts_with(below))
        .await?;
    Ok(Listing {
        found: found
            .found
            .iter()
            .map(|details| describe::credential(details).into())
            .collect(),
        more: found.more,
    })
}

/// The live tokens of the person `of`, and those whose display name contains this.
pub(crate) async fn tokens(running: &Running, of: &str) -> anyhow::Result<Listing> {
    let keeper = &running.keeper;
    let now = keeper.now();
    let found = keeper.tokens_named(of, MOST).await?;
    Ok(Listing {
        found: found
            .found
            .iter()
            .map(|token| describe::token(token, now).into())
            .collect(),
        more: found.more,
    })
}

/// One credential, by its name, or one token, by its accessor.
pub(crate) async fn show(running: &Running, which: &str) -> anyhow::Result<Value> {
    let keeper = &running.keeper;
    Ok(if which.contains('/') {
        let name = parse(running, which)?;
        let details = keeper
            .credential_details(&name)
            .await
            .map_err(|failure| not_there(failure, which))?;
        json!({"credential": describe::credential(&details)})
    } else {
        let token = keeper
            .lookup_accessor(which)
            .await
            .map_err(|failure| not_there(failure, which))?;
        json!({"token": describe::token(&token, keeper.now())})
    })
}

/// Revokes a credential or a token. Answers with what was done, in a sentence.
pub(crate) async fn revoke(running: &Running, which: &str, caller: u32) -> anyhow::Result<String> {
    let keeper = &running.keeper;
    if !which.contains('/') {
        let token = keeper
            .lookup_accessor(which)
            .await
            .map_err(|failure| not_there(failure, which))?;
        let of = keeper.name_of_user(&token).await?;
        keeper.revoke(&token.id).await?;
        return Ok(format!(
            "the token {which} of {of} and all made of it are revoked"
        ));
    }
    let name = parse(running, which)?;
    let details = keeper
        .credential_details(&name)
        .await
        .map_err(|failure| not_there(failure, which))?;
    keeper
        .delete_as(&format!("operator uid:{caller}"), None, &name)
        .await?;
    let others: Vec<String> = details
        .grant
        .into_iter()
        .flat_map(|grant| grant.names)
        .filter(|other| other != which)
        .collect();
    Ok(if others.is_empty() {
        format!(
            "{which} is deleted; its login is being revoked at the issuer (gridkeep status tells of revocations that wait)"
        )
    } else {
        format!(
            "{which} is deleted; its login lives on, because it is stored as {} too: revoke these as well to end it at the issuer",
            others.join(", ")
        )
    })
}

fn parse(running: &Running, which: &str) -> anyhow::Result<CredentialName> {
    running
        .keeper
        .parse_name(which)
        .with_context(|| format!("{which} names no credential"))
}

fn not_there(failure: Failure, which: &str) -> anyhow::Error {
    match failure {
        Failure::NotFound => anyhow::anyhow!("nothing is stored as {which}"),
        Failure::BadInput(BadInput::InvalidAccessor) => {
            anyhow::anyhow!("there is no live token with the accessor {which}")
        }
        other => other.into(),
    }
}
