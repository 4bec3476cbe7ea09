//! The ssh-agent: logging in with its keys, and registering them with the server.
//!
//! Owns the conversation with the agent and which key is tried when. What follows a login is in `flow`.

use std::path::PathBuf;

use gridkeep_identity::ssh::{Agent, AgentError, AgentKey, Key, RSA_SHA2_512, parts};

use super::flow::{Run, Stop, Tried};
use crate::vault::{Auth, SshNonce, SshProof};

/// A key of the agent and its number, from 1.
struct Held {
    number: usize,
    blob: Vec<u8>,
    key: Key,
}

impl Held {
    /// As the server is told of it: the comment that the agent knows is nobody's business there.
    fn line(&self) -> String {
        format!("{} key{}", self.key.line(), self.number)
    }
}

impl Run<'_, '_> {
    /// Logs in with the first key of the agent that the server takes.
    pub(super) async fn log_in_with_ssh_agent(&mut self) -> Result<Tried, Stop> {
        if self.options.nossh || self.agent_socket().is_none() {
            return Ok(Tried::TryOther);
        }
        let Some(credkey) = self.credkey.clone() else {
            self.failed(
                "no credkey is known (--credkey), so nobody can be logged in with the ssh-agent"
                    .to_owned(),
            );
            return Ok(Tried::TryOther);
        };
        if credkey.contains('/') {
            self.report
                .detail("the credkeys of robots cannot use the ssh-agent");
            return Ok(Tried::TryOther);
        }
        let (mut agent, keys, _) = match self.agent_keys().await {
            Ok(found) => found,
            Err(error) => {
                self.failed(error.to_string());
                return Ok(Tried::TryOther);
            }
        };
        if keys.is_empty() {
            self.report
                .detail("the ssh-agent has no key to log in with");
            return Ok(Tried::TryOther);
        }
        self.report.step(format_args!(
            "Attempting ssh-agent authentication with {}",
            self.settings.server
        ));
        match self.first_accepted(&mut agent, keys, &credkey).await? {
            Some(auth) => {
                self.report.outcome("succeeded");
                self.use_unattended_login(&auth).await
            }
            None => {
                self.report.outcome("failed");
                Ok(Tried::TryOther)
            }
        }
    }

    /// The login with the first key that is accepted. A server of ours says which one that will be; others are tried in order.
    async fn first_accepted(
        &mut self,
        agent: &mut Agent,
        mut left: Vec<Held>,
        credkey: &str,
    ) -> Result<Option<Auth>, Stop> {
        let mut last = None;
        while !left.is_empty() {
            let Some(nonce) = self.nonce(&left, credkey).await? else {
                return Ok(None);
            };
            if !nonce.is_ours() {
                // What their devices add to a signature would be lost on the way.
                left.retain(|held| !held.key.is_hardware());
                if left.is_empty() {
                    break;
                }
            }
            let at = match nonce.fingerprint.as_deref() {
                None => 0,
                Some(print) => match left.iter().position(|held| held.key.fingerprint() == print) {
                    Some(at) => at,
                    None => break,
                },
            };
            let held = left.remove(at);
            self.report.detail(format_args!(
                "trying key{} of the ssh-agent, {} {}",
                held.number,
                held.key.algorithm(),
                held.key.fingerprint()
            ));
            let flags = if nonce.is_ours() { RSA_SHA2_512 } else { 0 };
            let signature = match agent.sign(&held.blob, nonce.text.as_bytes(), flags).await {
                Ok(signature) => signature,
                Err(error) => {
                    let why = error.to_string();
                    self.report.detail(&why);
                    if !matches!(error, AgentError::Refused) {
                        // What it still has to say would be taken for the answer to the next question.
                        match self.agent_keys().await {
                            Ok((anew, ..)) => *agent = anew,
                            Err(_) => {
                                self.failed(why);
                                return Ok(None);
                            }
                        }
                    }
                    last = Some(why);
                    continue;
                }
            };
            let Some((kind, inner)) = parts(&signature) else {
                last = Some("the ssh-agent's signature cannot be understood".to_owned());
                continue;
            };
            let line = held.line();
            let proof = SshProof {
                credkey,
                public_key: &line,
                signature: if nonce.is_ours() { &signature } else { &inner },
                format: nonce.is_ours().then_some(kind.as_str()),
                nonce: &nonce.text,
                issuer: &self.options.issuer,
                role: &self.options.role,
            };
            let path = &self.options.sshpath;
            match self.vault.ssh_login(path, &proof, &mut self.report).await {
                Ok(auth) => return Ok(Some(auth)),
                Err(error) if error.error.is_temporary() => return Err(self.temporary(&error)),
                Err(error) => {
                    self.report.detail(&error);
                    last = Some(error.to_string());
                }
            }
        }
        self.failed(match last {
            Some(why) => format!("no key of the ssh-agent was accepted; of the last one: {why}"),
            None => format!(
                "no key of the ssh-agent is registered for {credkey} at issuer {}; register them with htgettoken --registerssh",
                self.options.issuer
            ),
        });
        Ok(None)
    }

    /// A nonce; `None` when this way leads nowhere.
    async fn nonce(&mut self, left: &[Held], credkey: &str) -> Result<Option<SshNonce>, Stop> {
        let prints: Vec<String> = left
            .iter()
            .map(|held| held.key.fingerprint().to_owned())
            .collect();
        let (path, issuer) = (&self.options.sshpath, &self.options.issuer);
        let asked = self
            .vault
            .ssh_nonce(path, credkey, issuer, &prints, &mut self.report)
            .await;
        match asked {
            Ok(nonce) => Ok(Some(nonce)),
            // A server that answers may have trouble with the files of ssh keys alone: whoever has another way goes on by it.
            Err(error) if error.error.is_temporary() && error.error.status().is_none() => {
                Err(self.temporary(&error))
            }
            Err(error) => {
                self.failed(error.to_string());
                Ok(None)
            }
        }
    }

    /// That there is something to register, before a person is sent to a browser for it.
    pub(super) async fn check_keys_to_register(&mut self) -> Result<(), Stop> {
        self.keys_to_register().await.map(|_| ())
    }

    /// Registers all keys of the agent with the token of a login that may do so.
    pub(super) async fn register_ssh_keys(&mut self, auth: &Auth) -> Result<(), Stop> {
        let lines = self.keys_to_register().await?;
        let credkey = auth
            .credkey
            .clone()
            .or_else(|| self.credkey.clone())
            .ok_or_else(|| {
                Stop::Fatal(
                    "the server's answer to the login names no credkey, so the ssh keys cannot be registered; give --credkey"
                        .to_owned(),
                )
            })?;
        self.report.step(format_args!(
            "Registering {} ssh-agent keys for {credkey}",
            lines.len()
        ));
        let path = &self.options.sshpath;
        self.vault
            .ssh_register(path, &credkey, &lines, &auth.client_token, &mut self.report)
            .await
            .map_err(|error| {
                let why = match error.error.status() {
                    Some(403) => " (this server may not let people register their own keys)",
                    _ => "",
                };
                Stop::Fatal(format!("{error}{why}"))
            })?;
        self.report.outcome("done");
        Ok(())
    }

    async fn keys_to_register(&mut self) -> Result<Vec<String>, Stop> {
        if self.agent_socket().is_none() {
            return Err(Stop::Fatal(
                "--registerssh needs an ssh-agent, and $SSH_AUTH_SOCK names none; start one (ssh-agent) and add a key (ssh-add)"
                    .to_owned(),
            ));
        }
        let (_, keys, unfit) = self
            .agent_keys()
            .await
            .map_err(|error| Stop::Fatal(error.to_string()))?;
        if keys.is_empty() && !unfit.is_empty() {
            return Err(Stop::Fatal(format!(
                "the ssh-agent has no key that could be registered: {}",
                unfit.join("; ")
            )));
        }
        if keys.is_empty() {
            return Err(Stop::Fatal(
                "the ssh-agent has no key that could be registered; add one (ssh-add), or unlock the agent (ssh-add -X)"
                    .to_owned(),
            ));
        }
        Ok(keys.iter().map(Held::line).collect())
    }

    fn agent_socket(&self) -> Option<PathBuf> {
        self.environment
            .var_os("SSH_AUTH_SOCK")
            .filter(|socket| !socket.is_empty())
            .map(PathBuf::from)
    }

    /// The agent, those of its keys that can be used, and why the others cannot.
    async fn agent_keys(&mut self) -> Result<(Agent, Vec<Held>, Vec<String>), AgentError> {
        let mut agent = Agent::connect(&self.agent_socket().unwrap_or_default()).await?;
        let (mut held, mut unfit) = (Vec::new(), Vec::new());
        for (index, AgentKey { blob, comment, key }) in agent.keys().await?.into_iter().enumerate()
        {
            let number = index + 1;
            match key {
                Ok(key) => held.push(Held { number, blob, key }),
                Err(error) => {
                    let comment: String = comment
                        .chars()
                        .filter(|c| !c.is_control())
                        .take(64)
                        .collect();
                    self.report.detail(format_args!(
                        "key{number} of the ssh-agent ({comment}) is not used: {error}"
                    ));
                    unfit.push(format!("key{number} ({comment}): {error}"));
                }
            }
        }
        Ok((agent, held, unfit))
    }
}
