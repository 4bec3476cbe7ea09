//! The client of an ssh-agent, over the socket that `SSH_AUTH_SOCK` names (draft-ietf-sshm-ssh-agent): listing keys and having a
//! text signed. Two messages out of the protocol; nothing is added to the agent and nothing is locked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::wire::{Reader, put_string};
use super::{Key, KeyError};

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// Asks an agent for RSA with SHA-512 (RFC 8332); other kinds of keys take no notice.
pub const RSA_SHA2_512: u32 = 4;

/// Longest message of OpenSSH's agent.
const LONGEST: usize = 256 << 10;
/// For an answer that needs nobody.
const PATIENCE: Duration = Duration::from_secs(5);
/// For a signature: somebody may have to touch a key or to confirm.
const PATIENCE_WITH_PEOPLE: Duration = Duration::from_secs(25);

/// Why the agent was of no use.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Nobody answers on the socket.
    #[error("no ssh-agent answers on {}: {source}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("the ssh-agent broke off: {0}")]
    Broken(#[from] std::io::Error),
    /// It took too long.
    #[error("the ssh-agent did not answer within {0} seconds")]
    Slow(u64),
    /// It said something that is not the protocol.
    #[error("the ssh-agent's answer cannot be understood: {0}")]
    Malformed(&'static str),
    /// It refuses: locked, or its user did.
    #[error("the ssh-agent refuses (it is locked, or signing was not confirmed)")]
    Refused,
}

/// A key an agent holds.
#[derive(Debug, Clone)]
pub struct AgentKey {
    /// Names it to the agent.
    pub blob: Vec<u8>,
    /// What its owner calls it.
    pub comment: String,
    /// The key, or why it cannot be used here.
    pub key: Result<Key, KeyError>,
}

/// A connection to an agent.
#[derive(Debug)]
pub struct Agent {
    stream: UnixStream,
}

impl Agent {
    /// Connects to the agent on `socket`.
    ///
    /// # Errors
    /// [`AgentError::Unreachable`], [`AgentError::Slow`].
    pub async fn connect(socket: &Path) -> Result<Agent, AgentError> {
        let stream = timeout(PATIENCE, UnixStream::connect(socket))
            .await
            .map_err(|_| AgentError::Slow(PATIENCE.as_secs()))?
            .map_err(|source| AgentError::Unreachable {
                path: socket.to_owned(),
                source,
            })?;
        Ok(Agent { stream })
    }

    /// Its keys, in its order. A locked agent shows none.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn keys(&mut self) -> Result<Vec<AgentKey>, AgentError> {
        let answer = self.ask(&[REQUEST_IDENTITIES], PATIENCE).await?;
        let mut reader = body(&answer, IDENTITIES_ANSWER)?;
        const BAD: AgentError = AgentError::Malformed("its list of keys");
        let count = reader.number().ok_or(BAD)?;
        let mut keys = Vec::new();
        for _ in 0..count {
            let blob = reader.string().ok_or(BAD)?;
            let comment = String::from_utf8_lossy(reader.string().ok_or(BAD)?).into_owned();
            keys.push(AgentKey {
                key: Key::from_blob(blob, &comment),
                blob: blob.to_vec(),
                comment,
            });
        }
        Ok(keys)
    }

    /// The signature over `message` made with the key `blob`, as a whole (RFC 4253 section 6.6). `flags` is 0 or [`RSA_SHA2_512`].
    ///
    /// # Errors
    /// [`AgentError`]; [`AgentError::Refused`] when agent or user say no.
    pub async fn sign(
        &mut self,
        blob: &[u8],
        message: &[u8],
        flags: u32,
    ) -> Result<Vec<u8>, AgentError> {
        let mut request = vec![SIGN_REQUEST];
        put_string(&mut request, blob);
        put_string(&mut request, message);
        request.extend_from_slice(&flags.to_be_bytes());
        let answer = self.ask(&request, PATIENCE_WITH_PEOPLE).await?;
        let mut reader = body(&answer, SIGN_RESPONSE)?;
        reader
            .string()
            .map(<[u8]>::to_vec)
            .ok_or(AgentError::Malformed("its signature"))
    }

    async fn ask(&mut self, request: &[u8], patience: Duration) -> Result<Vec<u8>, AgentError> {
        timeout(patience, async {
            let mut message = Vec::new();
            put_string(&mut message, request);
            self.stream.write_all(&message).await?;
            let length = self.stream.read_u32().await?;
            let length = usize::try_from(length)
                .ok()
                .filter(|length| (1..=LONGEST).contains(length))
                .ok_or(AgentError::Malformed("its length"))?;
            let mut answer = vec![0; length];
            self.stream.read_exact(&mut answer).await?;
            Ok(answer)
        })
        .await
        .map_err(|_| AgentError::Slow(patience.as_secs()))?
    }
}

/// What stands behind the kind of an answer, when it is the kind that was asked for.
fn body(answer: &[u8], wanted: u8) -> Result<Reader<'_>, AgentError> {
    match answer.split_first() {
        Some((kind, body)) if *kind == wanted => Ok(Reader::new(body)),
        Some((&FAILURE, _)) => Err(AgentError::Refused),
        _ => Err(AgentError::Malformed("its kind")),
    }
}
