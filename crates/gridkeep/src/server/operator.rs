//! The operators' way in on the host itself: a unix socket in the run directory that asks the kernel who is calling.
//!
//! One order and one answer per connection, a line of JSON each. No token lies on disk for it.

mod orders;
mod settle;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use gridkeep_dialect_vault::sealed::SealKind;
use gridkeep_dialect_vault::{AuditError, AuditFailure};
use gridkeep_store::RootKey;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::place::KeySource;
use super::refusal::{Reason, Refusal, reason_of};
use super::strangers::{Refused, Strangers};
use super::{Running, inventory};
use crate::audit::EvidenceAnswer;
use crate::config::OPERATORS_SOCKET;
pub use settle::{Settled, settle};

/// Longest order, and longest time for one.
const LONGEST: u64 = 4096;
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest time that the caller waits: longer than the server takes to say that it took too long, the audit log included.
const CALLERS_PATIENCE: Duration = Duration::from_secs(20);
/// Orders that are carried out side by side. Whoever seals in an emergency waits for none of them.
const MOST_ORDERS: usize = 16;
/// How often it is looked whether refused calls are to be noted.
const NOTE_EVERY: Duration = Duration::from_secs(10);
/// Longest time that the answer waits for what came of the order to be noted.
const NOTING: Duration = Duration::from_secs(2);
/// Users who may not ask are told so by at most this many tasks at a time.
const MOST_STRANGERS: usize = 16;
/// Longest answer that is read.
const LONGEST_ANSWER: u64 = 16 << 20;

/// How the answer to a share ends after which more are wanted.
pub(crate) const SHARES_GIVEN: &str = "shares given";

/// What an operator can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Order {
    /// A token of 15 minutes.
    Token,
    /// What a reload would change.
    Diff,
    /// The configuration in force.
    ShowConfig,
    /// The wall clock is right.
    ConfirmClock,
    /// How the server is, and what it keeps.
    Status,
    /// The credentials whose names begin with this.
    Credentials {
        /// The beginning of a name; may be empty.
        below: String,
    },
    /// The live tokens whose display names contain this.
    Tokens {
        /// A part of a name; may be empty.
        of: String,
    },
    /// One credential or token.
    Show {
        /// `issuer/credkey:role`, or an accessor.
        which: String,
    },
    /// The end of a credential or token.
    Revoke {
        /// `issuer/credkey:role`, or an accessor.
        which: String,
    },
    /// What audit logs are verified with.
    AuditEvidence,
    /// How the nodes of the cluster are doing.
    ClusterStatus,
    /// This node's files are those of all nodes from now on.
    PublishConfig,
    /// Drop the keys.
    Seal,
    /// Take a share, or read the root key again.
    Unseal,
    /// Seal new records under a new data key, and then the old ones.
    RotateKeyring,
    /// Seal the keyring under another root key.
    ReplaceRootKey {
        /// Although other nodes do not know it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        force: bool,
    },
    /// Which root key the store is sealed under.
    RootKey,
    /// Take a root key for known that another node is about to replace the present one by.
    ExpectRootKey,
}

impl Order {
    /// Whether this takes power away, or mends what else would stay refused: not to be put off because the audit log cannot be written.
    fn cannot_wait(&self) -> bool {
        matches!(
            self,
            Order::Seal | Order::Revoke { .. } | Order::ConfirmClock
        )
    }
}

/// Who carries out orders: the server, or what stands for it while it is sealed.
#[async_trait::async_trait]
pub trait Desk: Send + Sync + 'static {
    /// Carries out `order` of a caller who may; `secret` is what came with it.
    async fn obey(
        &self,
        caller: u32,
        order: &Order,
        secret: Option<&str>,
    ) -> anyhow::Result<String>;

    /// Notes an order before (`request`) or after (`response`) it is carried out.
    async fn note(
        &self,
        kind: &str,
        caller: u32,
        order: &Order,
        error: Option<String>,
    ) -> anyhow::Result<()> {
        tracing::info!(kind, caller, ?order, error, "an operator's order");
        Ok(())
    }

    /// Notes calls of a user who may not ask.
    async fn note_refused(&self, refused: Refused) {
        tracing::warn!(
            caller = refused.caller,
            calls = refused.count,
            "refused on the operators' socket: neither root nor the server's own user"
        );
    }
}

/// What may come with an order, beside it in the same object: a share or a key. Never noted.
#[derive(Deserialize)]
struct Enclosed {
    #[serde(default)]
    secret: Option<String>,
}

/// The answer to [`Order::Token`].
#[derive(Serialize, Deserialize)]
pub struct TokenAnswer {
    /// The secret.
    pub token: String,
    /// Its accessor.
    pub accessor: String,
    /// Seconds it lives.
    pub ttl: u64,
}

impl std::fmt::Debug for TokenAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenAnswer")
            .field("accessor", &self.accessor)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

/// The answer to [`Order::Diff`].
#[derive(Debug, Serialize, Deserialize)]
pub struct DiffAnswer {
    /// What to print.
    pub text: String,
    /// The exit code it calls for.
    pub code: u8,
}

/// The answer to [`Order::RootKey`].
#[derive(Debug, Serialize, Deserialize)]
pub struct RootKeyAnswer {
    /// Its public identifier.
    pub id: String,
    /// Whether the service manager gives the server its root key, so that no file is needed.
    pub credential: bool,
}

#[derive(Serialize, Deserialize)]
struct Reply {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// What sort of error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
}

impl Reply {
    fn of(outcome: anyhow::Result<String>) -> Self {
        match outcome {
            Ok(answer) => Reply {
                answer: Some(answer),
                error: None,
                reason: None,
            },
            Err(error) => Reply {
                answer: None,
                error: Some(format!("{error:#}")),
                reason: Some(reason_of(&error)),
            },
        }
    }
}

/// The server's end.
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Binds in `directory`, which is made when it is missing. A socket that an earlier run left is replaced; one that somebody
    /// still answers on is not.
    ///
    /// # Errors
    /// What is wrong with the directory.
    pub fn bind(directory: &Path) -> anyhow::Result<Socket> {
        let about = || {
            format!(
                "the run directory {} cannot be used for the operators' socket; make it for the user of the service, or set gridkeep.run_directory",
                directory.display()
            )
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .with_context(about)?;
        let found = std::fs::metadata(directory).with_context(about)?;
        let owner = nix::unistd::geteuid().as_raw();
        if found.mode() & 0o022 != 0 || !(found.uid() == owner || found.uid() == 0) {
            // Somebody else could put a socket of his own, or a link, where ours is.
            anyhow::bail!(
                "the run directory {} belongs to user id {} with mode {:o}, so that others may change what is in it; make it the directory of the user of the service (id {owner}) with mode 0755, or set gridkeep.run_directory",
                directory.display(),
                found.uid(),
                found.mode() & 0o7777
            );
        }
        let path = directory.join(OPERATORS_SOCKET);
        if UnixStream::connect(&path).is_ok() {
            anyhow::bail!(
                "another server answers on {}; stop it, or set gridkeep.run_directory",
                path.display()
            );
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(about);
            }
            _ => {}
        }
        let listener = UnixListener::bind(&path).with_context(about)?;
        // Everybody may ask; the kernel says who it is, and most are refused with a reason.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))
            .with_context(about)?;
        Ok(Socket { listener, path })
    }

    /// Answers until told to stop, finishes what was begun, and removes the socket.
    pub(crate) async fn serve(self, desk: Arc<impl Desk>, mut stop: watch::Receiver<bool>) {
        let (mut orders, mut refusing) = (JoinSet::new(), JoinSet::new());
        let strangers = Arc::new(Mutex::new(Strangers::default()));
        let mut note = tokio::time::interval(NOTE_EVERY);
        let stopping = stop.clone();
        loop {
            let accepted = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                Some(_) = refusing.join_next(), if !refusing.is_empty() => continue,
                Some(_) = orders.join_next(), if !orders.is_empty() => continue,
                _ = note.tick() => {
                    let (desk, due) = (desk.clone(), locked(&strangers).due(Instant::now()));
                    if !due.is_empty() {
                        refusing.spawn(async move { note_all(&*desk, due).await });
                    }
                    continue;
                }
                accepted = self.listener.accept(), if orders.len() < MOST_ORDERS => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "an operator's connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(caller) = stream.peer_cred().map(|credentials| credentials.uid()) else {
                tracing::warn!("the kernel does not say who is calling on the operators' socket");
                continue;
            };
            let (desk, stopping) = (desk.clone(), stopping.clone());
            if is_operator(caller) {
                orders.spawn(async move {
                    if let Err(error) = attend(stream, caller, &*desk, stopping).await {
                        tracing::info!("an operator's order was not answered: {error:#}");
                    }
                });
            } else if refusing.len() < MOST_STRANGERS {
                let strangers = strangers.clone();
                refusing.spawn(async move {
                    if refuse(stream, caller, stopping).await.is_ok() {
                        let noted = locked(&strangers).count(caller, Instant::now());
                        note_all(&*desk, noted).await;
                    }
                });
            }
        }
        // An order that was begun is carried out and answered: that to seal is what stops all.
        while orders.join_next().await.is_some() {}
        while refusing.join_next().await.is_some() {}
        let rest = locked(&strangers).rest();
        note_all(&*desk, rest).await;
        // A socket that stays behind is replaced at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn locked(strangers: &Mutex<Strangers>) -> std::sync::MutexGuard<'_, Strangers> {
    strangers.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn note_all(desk: &impl Desk, refused: impl IntoIterator<Item = Refused>) {
    for refused in refused {
        let noting = desk.note_refused(refused);
        if tokio::time::timeout(NOTING, noting).await.is_err() {
            tracing::warn!(
                caller = refused.caller,
                calls = refused.count,
                "refused calls on the operators' socket could not be noted in the audit log: it takes too long"
            );
        }
    }
}

/// Root, and the user the server runs as.
fn is_operator(caller: u32) -> bool {
    caller == 0 || caller == nix::unistd::geteuid().as_raw()
}

/// The line that a caller sends; empty if the server is to stop before it comes.
async fn line_of(
    read: impl tokio::io::AsyncRead + Unpin,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::new());
    let mut read = tokio::io::BufReader::new(read.take(LONGEST));
    let reading = tokio::time::timeout(PATIENCE, read.read_line(&mut line));
    tokio::select! {
        biased;
        done = reading => { done.context("no order came")??; }
        _ = stop.wait_for(|stop| *stop) => {}
    }
    Ok(line)
}

async fn send(
    mut write: impl tokio::io::AsyncWrite + Unpin,
    outcome: anyhow::Result<String>,
) -> anyhow::Result<()> {
    let mut bytes = Zeroizing::new(serde_json::to_vec(&Reply::of(outcome))?);
    bytes.push(b'\n');
    tokio::time::timeout(PATIENCE, write.write_all(&bytes)).await??;
    Ok(())
}

async fn attend(
    stream: tokio::net::UnixStream,
    caller: u32,
    desk: &impl Desk,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let (read, write) = stream.into_split();
    let line = line_of(read, stop).await?;
    if line.is_empty() {
        return Ok(());
    }
    send(write, obey(caller, &line, desk).await).await
}

/// Says to somebody who may not ask that it is so. What is asked is taken off the line and not looked at.
async fn refuse(
    stream: tokio::net::UnixStream,
    caller: u32,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let (read, write) = stream.into_split();
    anyhow::ensure!(!line_of(read, stop).await?.is_empty(), "nothing was asked");
    let refusal = Refusal::new(
        Reason::NotAllowed,
        format!(
            "user id {caller} may not do this; only root and the user the server runs as (id {}) may: use sudo",
            nix::unistd::geteuid()
        ),
    );
    send(write, Err(refusal.into())).await
}

async fn obey(caller: u32, line: &str, desk: &impl Desk) -> anyhow::Result<String> {
    let parsed = serde_json::from_str::<Order>(line.trim())
        .and_then(|order| Ok((order, serde_json::from_str::<Enclosed>(line.trim())?.secret)));
    // Not the parser's own words: they could show a piece of the secret.
    let (order, secret) = parsed.map_err(|_| {
        anyhow::anyhow!(
            "the order is not understood; use the gridkeep of the same version as the server"
        )
    })?;
    let secret = secret.map(Zeroizing::new);
    desk.note("request", caller, &order, None)
        .await
        .map_err(|error| Refusal::new(Reason::AuditLog, format!("{error:#}")))?;
    let secret = secret.as_ref().map(|secret| secret.as_str());
    let outcome = tokio::time::timeout(PATIENCE, desk.obey(caller, &order, secret))
        .await
        .unwrap_or_else(|_| Err(Refusal::new(Reason::TooLong, not_known(PATIENCE)).into()));
    let error = outcome.as_ref().err().map(|error| format!("{error:#}"));
    let noting = desk.note("response", caller, &order, error);
    let noted = tokio::time::timeout(NOTING, noting)
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("it takes too long")));
    if let Err(error) = noted {
        // What is done is not told as failed: it would be given again.
        tracing::warn!(
            caller,
            ?order,
            "what came of an operator's order could not be noted in the audit log: {error:#}"
        );
    }
    outcome
}

/// What is said when nothing was heard within `patience`.
fn not_known(patience: Duration) -> String {
    format!(
        "no answer within {} s; whether it was done is not known: look at the server's log (journalctl -u gridkeep), then at what was to be done",
        patience.as_secs()
    )
}

/// What a server without keys says to every order but one.
pub(super) fn sealed() -> anyhow::Error {
    let text = "the server is sealed; unseal it first (gridkeep operator unseal)";
    Refusal::new(Reason::Sealed, text).into()
}

/// What a server that has no store yet says to every order.
pub(super) fn not_initialised() -> anyhow::Error {
    let text = "the server is not initialised yet: PUT sys/init makes its store and the shares of its key (docs/operate.md, \"Shares instead of a key\")";
    Refusal::new(Reason::NotInitialised, text).into()
}

/// What a server says between having its keys and having none.
pub(super) fn turning(text: &str) -> anyhow::Error {
    Refusal::new(Reason::Turning, text).into()
}

/// Whether a server answers in this run directory.
pub fn answers(directory: &Path) -> bool {
    UnixStream::connect(directory.join(OPERATORS_SOCKET)).is_ok()
}

/// The caller's end: sends `order` to the server whose run directory this is.
///
/// # Errors
/// When there is no server, or it refuses.
pub fn ask(directory: &Path, order: &Order) -> anyhow::Result<String> {
    ask_with(directory, order, None)
}

/// The same with a secret to go with the order.
///
/// # Errors
/// As [`ask`].
pub fn ask_with(
    directory: &Path,
    order: &Order,
    secret: Option<Zeroizing<String>>,
) -> anyhow::Result<String> {
    let path = directory.join(OPERATORS_SOCKET);
    let mut stream = UnixStream::connect(&path).with_context(|| {
        format!(
            "no server answers on {}; start it, or name the files it was started with by --config",
            path.display()
        )
    })?;
    stream.set_read_timeout(Some(CALLERS_PATIENCE))?;
    stream.set_write_timeout(Some(CALLERS_PATIENCE))?;
    let mut line = Zeroizing::new(serde_json::to_string(order)?);
    if let Some(secret) = secret {
        // In front of the brace that ends the order.
        line.pop();
        line.push_str(",\"secret\":");
        line.push_str(&Zeroizing::new(serde_json::to_string(&*secret)?));
        line.push('}');
    }
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream.take(LONGEST_ANSWER))
        .read_line(&mut answer)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
                Refusal::new(Reason::TooLong, not_known(CALLERS_PATIENCE)).into()
            }
            _ => anyhow::Error::new(error).context("the server did not answer; look at its log"),
        })?;
    let reply: Reply = serde_json::from_str(&answer)
        .context("the server closed the connection without an answer; look at its log")?;
    match (reply.answer, reply.error) {
        (Some(answer), _) => Ok(answer),
        (None, Some(error)) => {
            Err(Refusal::new(reply.reason.unwrap_or(Reason::Other), error).into())
        }
        (None, None) => anyhow::bail!("the server's answer is empty"),
    }
}

#[cfg(test)]
mod tests;
