//! The login itself: a nonce, a signature over it, a token.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gridkeep_identity::ssh::{Form, Key, Signature, verify};
use gridkeep_store::{Guard, Name};
use gridkeep_token::time::{Seconds, UnixSeconds};
use secrecy::ExposeSecret as _;

use super::SSH_MOUNT;
use super::keys::{KeysOf, is_name, opens};
use crate::clock::TOLERANCE_SECONDS;
use crate::database::{Change, NotCommitted};
use crate::events::{self, Event};
use crate::failure::{BadInput, Failure, Later, LaterKind, Refused};
use crate::keeper::Keeper;
use crate::measure;
use crate::policy::{DEFAULT, SSH, TOKENOPS, known_issuer};
use crate::records::{Identity, SSH_NONCE, SpentNonceRecord};
use crate::removed::known_role;
use crate::secret::{Proven, Purpose};
use crate::setup::{IssuerSetup, Setup, SshSetup};
use crate::tokens::{Issued, LoginToken, later, sanitised};

/// A nonce can be used for this long, in seconds.
const NONCE_LIFE: i64 = 30;
/// A spent nonce is remembered for longer than any node could still believe it to be new.
const SPENT_KEPT: Seconds = Seconds(3600);
/// Fingerprints that are looked at.
const MOST_FINGERPRINTS: usize = 64;
/// Bytes of what a client may have noted with its token.
const MOST_METADATA: usize = 4096;
/// How often the use of a key is noted, in seconds.
const NOTED: i64 = 86_400;

/// Which of several keys would be accepted: the question of a client that wants to ask its agent once.
#[derive(Debug, Clone, Default)]
pub struct SshProbe {
    /// The credkey.
    pub role: String,
    /// The issuer.
    pub issuer: String,
    /// Fingerprints of the keys, the preferred first.
    pub fingerprints: Vec<String>,
}

/// A text to sign.
#[derive(Debug, Clone)]
pub struct SshChallenge {
    /// The text.
    pub nonce: String,
    /// The first of the probed fingerprints that would be accepted. The same `None` whether the name is known or not.
    pub acceptable: Option<String>,
}

/// A login with an ssh key.
#[derive(Debug, Clone)]
pub struct SshLogin<'a> {
    /// The credkey.
    pub role: String,
    /// `type base64 comment`.
    pub public_key: String,
    /// The signature.
    pub signature: &'a [u8],
    /// How it was sent.
    pub form: Form,
    /// The text it is over.
    pub nonce: String,
    /// What the client wants noted; `issuer` and `group` say what the login is for.
    pub metadata: BTreeMap<String, String>,
    /// Address of the client.
    pub from: Option<IpAddr>,
}

impl Keeper {
    /// A nonce, and which of the keys of `probe` would be accepted.
    ///
    /// # Errors
    /// [`BadInput::SshNotConfigured`]; [`Failure::Later`] when the store cannot be read, or none of the keys would be accepted and a
    /// file that may have one cannot be used.
    pub async fn ssh_challenge(&self, probe: Option<SshProbe>) -> Result<SshChallenge, Failure> {
        let setup = self.setup();
        let ssh = self.ssh_setup(&setup)?;
        let acceptable = match probe {
            Some(probe) if is_name(&probe.role) && setup.issuer(&probe.issuer).is_some() => {
                let found = self.keys_of(ssh, Some(&probe.issuer), &probe.role).await?;
                let now = self.now();
                let accepted = |print: &&String| {
                    found.keys.iter().any(|key| {
                        key.fingerprint == **print
                            && opens(key, &probe.issuer, ssh)
                            && key.expires_at.is_none_or(|end| end > now)
                    })
                };
                let mut probed = probe.fingerprints.iter().take(MOST_FINGERPRINTS);
                match (probed.find(accepted), found.uncertain()) {
                    (None, Some(later)) => return Err(later),
                    (found, _) => found.cloned(),
                }
            }
            _ => None,
        };
        let (nonce, _) = self.inner.mint.issue(Purpose::SshNonce, self.now());
        Ok(SshChallenge {
            nonce: nonce.expose_secret().to_owned(),
            acceptable,
        })
    }

    /// Logs in with a signature over a nonce.
    ///
    /// # Errors
    /// [`Refused::SshKey`] on proof that the key is not registered; [`BadInput`] for everything that is wrong with the request.
    pub async fn ssh_login(&self, login: SshLogin<'_>) -> Result<Issued, Failure> {
        let setup = self.setup();
        let ssh = self.ssh_setup(&setup)?;
        let named = login.metadata.get("issuer");
        let Some(issuer) = named.and_then(|name| setup.issuer(name)) else {
            return self.log_in_with_key(&setup, ssh, login).await;
        };
        measure::login(&issuer.name, measure::SSH, "started");
        let outcome = self.log_in_with_key(&setup, ssh, login).await;
        let step = match &outcome {
            Ok(_) => "completed",
            Err(Failure::Later(_)) => "failed",
            Err(_) => "denied",
        };
        measure::login(&issuer.name, measure::SSH, step);
        outcome
    }

    async fn log_in_with_key(
        &self,
        setup: &Setup,
        ssh: &SshSetup,
        login: SshLogin<'_>,
    ) -> Result<Issued, Failure> {
        let nonce = self.fresh_nonce(&login.nonce)?;
        let noted: usize = login.metadata.iter().map(|(a, b)| a.len() + b.len()).sum();
        if noted > MOST_METADATA {
            return Err(BadInput::Other(format!(
                "metadata may have at most {MOST_METADATA} bytes"
            ))
            .into());
        }
        let issuer = login
            .metadata
            .get("issuer")
            .filter(|issuer| !issuer.is_empty())
            .ok_or_else(|| {
                BadInput::Other(
                    "metadata must name the issuer whose credentials are wanted (\"issuer\")"
                        .to_owned(),
                )
            })?;
        let issuer = known_issuer(setup, issuer, self.now())?;
        let group = login
            .metadata
            .get("group")
            .map(String::as_str)
            .filter(|group| !group.is_empty())
            .unwrap_or("default");
        let role = match known_role(setup, issuer, group, self.now()) {
            Ok(role) => role,
            Err(later @ Failure::Later(_)) => return Err(later),
            Err(_) => {
                let text = format!("issuer \"{}\" has no role \"{group}\"", issuer.name);
                return Err(BadInput::Other(text).into());
            }
        };
        if !role.terms.admit(login.from) {
            return Err(BadInput::AddressNotAllowed {
                role: role.name.clone(),
                from: login.from,
            }
            .into());
        }
        let unknown = || BadInput::UnknownRole {
            role: login.role.clone(),
        };
        if !is_name(&login.role) {
            return Err(unknown().into());
        }
        let key = Key::parse(&login.public_key).map_err(|error| {
            BadInput::Other(format!("decoding public_key/cert failed: {error}"))
        })?;
        verify(
            &key,
            login.nonce.as_bytes(),
            Signature {
                form: login.form,
                bytes: login.signature,
                rsa_sha1: ssh.rsa_sha1,
            },
        )
        .map_err(|error| BadInput::Other(error.to_string()))?;
        let spent = Name::new(SSH_NONCE, &[nonce.id().as_slice()]);
        loop {
            let keys = self.keys_of(ssh, Some(&issuer.name), &login.role).await?;
            if keys.keys.is_empty() {
                return Err(keys.uncertain().unwrap_or_else(|| unknown().into()));
            }
            let index = self.accepted(ssh, issuer, &keys, &key)?;
            let owner = keys.keys[index].owner.clone();
            let now = self.now();
            let mut change = Change::new();
            change.guard(Guard::Absent(spent.clone())).put(
                spent.clone(),
                &SpentNonceRecord { at: now },
                Some(later(now, SPENT_KEPT).0),
            )?;
            note_use(&mut change, &keys, index, now)?;
            let issued = self.login_token(
                &mut change,
                self.ssh_token(ssh, issuer, &role.name, &owner, login.metadata.clone()),
            )?;
            events::record(
                &mut change,
                &Event {
                    at: now,
                    what: "login".into(),
                    subject: format!("{}/{owner}:{}", issuer.name, role.name),
                    by: issued.token.display_name.clone(),
                    from: login.from,
                    detail: format!("with the ssh key {}", key.fingerprint()),
                },
            )?;
            match self.inner.db.commit(change).await {
                Ok(()) => return Ok(issued),
                Err(NotCommitted::Conflict) => {
                    // Either the nonce was used meanwhile, or the keys changed under us.
                    let used = self.inner.db.get::<SpentNonceRecord>(&spent).await?;
                    if used.is_some() {
                        return Err(BadInput::SshNonce.into());
                    }
                }
                Err(other) => return Err(other.into()),
            }
        }
    }

    /// A nonce of ours that is not too old. Whether it was used shows when it is spent.
    fn fresh_nonce(&self, text: &str) -> Result<Proven, Failure> {
        let proven = self
            .inner
            .mint
            .prove(Purpose::SshNonce, text)
            .ok_or(BadInput::SshNonce)?;
        let age = self.now().0 - proven.issued_at.0;
        // Another node, whose clock is ahead, may have made it.
        if (-TOLERANCE_SECONDS..NONCE_LIFE).contains(&age) {
            return Ok(proven);
        }
        Err(self.too_late(BadInput::SshNonce))
    }

    /// The place of `key` among those that open the credentials of `issuer`.
    fn accepted(
        &self,
        ssh: &SshSetup,
        issuer: &IssuerSetup,
        keys: &KeysOf,
        key: &Key,
    ) -> Result<usize, Failure> {
        let now = self.now();
        let mut expired = false;
        for (index, known) in keys.keys.iter().enumerate() {
            if known.line != key.line() || !opens(known, &issuer.name, ssh) {
                continue;
            }
            if known.expires_at.is_none_or(|end| end > now) {
                return Ok(index);
            }
            expired = true;
        }
        if expired && self.clock_doubtful() {
            return Err(Later::new(
                LaterKind::ClockDoubtful,
                "by this server's clock the ssh key has expired, but the clock jumped and is not trusted; try again when the operators have set it right",
            )
            .into());
        }
        Err(keys.uncertain().unwrap_or_else(|| Refused::SshKey.into()))
    }

    fn ssh_token(
        &self,
        ssh: &SshSetup,
        issuer: &IssuerSetup,
        role: &str,
        owner: &str,
        metadata: BTreeMap<String, String>,
    ) -> LoginToken {
        // Only what was checked may take part in policies; the rest of the client's facts is for people.
        let mut facts = BTreeMap::from([
            ("issuer".to_owned(), issuer.name.clone()),
            ("group".to_owned(), role.to_owned()),
        ]);
        let mut meta = metadata;
        meta.append(&mut facts.clone());
        meta.insert("role".to_owned(), owner.to_owned());
        if let Some(domain) = ssh.domains.get(&issuer.name) {
            facts.insert("domain".to_owned(), domain.clone());
        }
        LoginToken {
            terms: issuer
                .role(role)
                .map(|role| role.terms.clone())
                .unwrap_or_default(),
            policies: vec![SSH.to_owned(), TOKENOPS.to_owned(), DEFAULT.to_owned()],
            meta,
            display_name: format!("ssh-{}", sanitised(owner)),
            path: format!("{SSH_MOUNT}login"),
            // Owners of one name at two issuers are two people.
            entity: self.inner.mint.stable_uuid(
                "entity",
                &format!("{SSH_MOUNT}{}\0{}", issuer.name, owner.to_lowercase()),
            ),
            identity: Identity {
                mount_accessor: self.inner.mint.mount_accessor("ssh", SSH_MOUNT),
                alias: owner.to_owned(),
                metadata: facts,
            },
            renewable: true,
        }
    }
}

/// Holds the keys to what they were when the login was judged, and notes the use of the one at `index`.
fn note_use(
    change: &mut Change,
    keys: &KeysOf,
    index: usize,
    now: UnixSeconds,
) -> Result<(), Failure> {
    let Some(stored) = &keys.stored else {
        return Ok(());
    };
    change.guard(stored.unchanged());
    // Registered keys come first, in the order of the record; those behind stand in files.
    if let Some(key) = stored.value.keys.get(index)
        && key.used_at.is_none_or(|used| now.0 - used.0 >= NOTED)
    {
        let mut record = stored.value.clone();
        record.keys[index].used_at = Some(now);
        change.put(stored.name.clone(), &record, None)?;
    }
    Ok(())
}
