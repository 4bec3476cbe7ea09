//! Which ssh keys belong to which credkey at which issuer: registering, listing, ending and removing them, and those that
//! administrators put into files.

use std::path::PathBuf;

use gridkeep_identity::ssh::Key;
use gridkeep_store::{Guard, Name};
use gridkeep_token::time::UnixSeconds;

use super::files::{InFile, files_of, read_files, still_counting};
use crate::database::{Change, NotCommitted, Stored, name};
use crate::events::{self, Event};
use crate::failure::{BadInput, Failure, Later, LaterKind};
use crate::keeper::Keeper;
use crate::policy::{Granted, known_issuer, ssh_register_policy};
use crate::records::{SSH_KEYS, SshKeyRecord, SshKeysRecord};
use crate::setup::{Setup, SshSetup};
use crate::tokens::Bearer;

/// Keys one credkey can have at one issuer.
const MOST_KEYS: usize = 100;
/// Bytes they can have, so that people of one name at some issuers do not fill the record that they share.
const MOST_BYTES: usize = 100 << 10;
/// Longest line that can be registered, in bytes, comment included: twice what the longest keys need.
const LONGEST_LINE: usize = 4 << 10;
const LONGEST_NAME: usize = 255;

/// Keys to be registered.
#[derive(Debug, Clone, Default)]
pub struct RegisterSshKeys {
    /// The credkey.
    pub name: String,
    /// `type base64 comment`, one each.
    pub keys: Vec<String>,
    /// Whose credentials they open; empty = those of all issuers. Administrators only.
    pub issuers: Vec<String>,
}

/// Where a key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SshKeySource {
    /// It was registered.
    Registered,
    /// It stands in this line of a file of the administrator's.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
}

/// An ssh key as its owner and operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshKey {
    /// `SHA256:…`.
    pub fingerprint: String,
    /// `type base64`.
    pub line: String,
    /// What its owner calls it.
    pub comment: String,
    /// The credkey.
    pub owner: String,
    /// Whose credentials it opens; `None` = those of all issuers.
    pub issuer: Option<String>,
    /// Where it comes from.
    pub source: SshKeySource,
    /// When it was registered.
    pub added_at: Option<UnixSeconds>,
    /// Display name of the token it was registered with.
    pub added_by: Option<String>,
    /// When it stops to count.
    pub expires_at: Option<UnixSeconds>,
    /// The day of a late login with it.
    pub used_at: Option<UnixSeconds>,
}

impl SshKey {
    fn registered(record: &SshKeyRecord) -> SshKey {
        SshKey {
            fingerprint: fingerprint(&record.line),
            line: record.line.clone(),
            comment: record.comment.clone(),
            owner: record.owner.clone(),
            issuer: record.issuer.clone(),
            source: SshKeySource::Registered,
            added_at: Some(record.added_at),
            added_by: Some(record.added_by.clone()),
            expires_at: record.expires_at,
            used_at: record.used_at,
        }
    }
}

/// The keys that may count for one credkey.
pub(super) struct KeysOf {
    /// The record, if keys were registered.
    pub stored: Option<Stored<SshKeysRecord>>,
    /// All of them, registered ones first and in the order of the record.
    pub keys: Vec<SshKey>,
    /// Why a file that might hold more could not be used.
    pub trouble: Option<String>,
}

/// The record of `credkey`'s keys. Names are compared without regard to case.
fn record_name(credkey: &str) -> Name {
    name(SSH_KEYS, &[&credkey.to_lowercase()])
}

fn fingerprint(line: &str) -> String {
    // What was stored was parsed before.
    Key::parse(line)
        .map(|key| key.fingerprint().to_owned())
        .unwrap_or_default()
}

/// Whether `text` can be the name of keys: word characters, `.`, `-` and `@`.
pub fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= LONGEST_NAME
        && text != "."
        && text != ".."
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-@".contains(&byte))
}

fn checked_name(text: &str) -> Result<(), BadInput> {
    if is_name(text) {
        return Ok(());
    }
    Err(BadInput::Other(
        "the name of ssh keys is a credkey of letters, digits, '_', '.', '-' and '@'; the credkeys of robots, which hold a '/', cannot use ssh"
            .to_owned(),
    ))
}

impl Keeper {
    pub(super) fn ssh_setup<'a>(&self, setup: &'a Setup) -> Result<&'a SshSetup, BadInput> {
        setup.ssh.as_ref().ok_or(BadInput::SshNotConfigured)
    }

    /// Registers keys. With the rights of a login they are added to those of the login's owner at its issuer; an administrator's
    /// replace all that are registered under the name. Gives back what was left out, and which files have keys that go on counting
    /// beside those of an administrator.
    ///
    /// # Errors
    /// [`BadInput`] for names and keys that cannot be used.
    pub async fn register_ssh_keys(
        &self,
        by: &Bearer,
        granted: &Granted,
        request: RegisterSshKeys,
    ) -> Result<Vec<String>, Failure> {
        let setup = self.setup();
        let ssh = self.ssh_setup(&setup)?;
        checked_name(&request.name)?;
        let own_issuer = self.self_registering(&setup, by, granted);
        let (keys, mut left_out) = usable(&request.keys, own_issuer.is_some())?;
        let issuers: Vec<Option<String>> = match &own_issuer {
            Some(issuer) => vec![Some(issuer.clone())],
            None if request.issuers.is_empty() => vec![None],
            None => {
                for issuer in &request.issuers {
                    known_issuer(&setup, issuer, self.now())?;
                }
                request.issuers.iter().cloned().map(Some).collect()
            }
        };
        let (now, added_by) = (self.now(), self.name_of_user(&by.token).await?);
        let fingerprints: Vec<String> = keys
            .iter()
            .map(|key| key.fingerprint().to_owned())
            .collect();
        self.change_ssh_keys(
            &request.name,
            by,
            "ssh_keys_registered",
            fingerprints.join(" "),
            |registered| {
                if own_issuer.is_none() {
                    registered.clear();
                }
                for issuer in &issuers {
                    for key in &keys {
                        registered.retain(|old| {
                            !(old.line == key.line()
                                && old.issuer == *issuer
                                && old.owner == request.name)
                        });
                        registered.push(SshKeyRecord {
                            line: key.line().to_owned(),
                            comment: key.comment().chars().take(128).collect(),
                            owner: request.name.clone(),
                            issuer: issuer.clone(),
                            added_at: now,
                            added_by: added_by.clone(),
                            expires_at: None,
                            used_at: None,
                        });
                    }
                }
                Ok(within_quota(registered, &request.name, &issuers)?)
            },
        )
        .await?;
        if own_issuer.is_none() {
            let found = self.in_files(&setup, ssh, None, &request.name).await;
            left_out.extend(still_counting(&files_of(&found, |_| true)));
        }
        Ok(left_out)
    }

    /// Whether somebody with this permission can do no more at `auth/ssh/role/…` than add keys of their own.
    pub fn adds_own_ssh_keys(&self, by: &Bearer, granted: &Granted) -> bool {
        self.self_registering(&self.setup(), by, granted).is_some()
    }

    /// The issuer with whose login somebody registers keys of his own; `None` for everybody else who may write here.
    fn self_registering(&self, setup: &Setup, by: &Bearer, granted: &Granted) -> Option<String> {
        if granted.root || granted.sudo {
            return None;
        }
        let accessor = by
            .token
            .identity
            .as_ref()
            .map(|identity| identity.mount_accessor.as_str())?;
        setup
            .issuers
            .iter()
            .find(|issuer| {
                let mount = format!("auth/oidc-{}/", issuer.name);
                self.inner.mint.mount_accessor("oidc", &mount) == accessor
                    && granted.policies == [ssh_register_policy(&issuer.name)]
            })
            .map(|issuer| issuer.name.clone())
    }

    /// Names under which keys are registered, in lower case and sorted.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be read.
    pub async fn ssh_key_names(&self) -> Result<Vec<String>, Failure> {
        self.ssh_setup(&self.setup())?;
        let mut names = Vec::new();
        self.inner
            .db
            .each::<SshKeysRecord>(SSH_KEYS, &[], |stored| {
                names.extend(stored.name.text(0).map(str::to_owned));
                std::ops::ControlFlow::Continue(())
            })
            .await?;
        names.sort_unstable();
        Ok(names)
    }

    /// The keys of `credkey`: all that are registered, or with `issuer` those that open its credentials, files included.
    ///
    /// # Errors
    /// [`Failure::NotFound`] when there is none.
    pub async fn ssh_keys(
        &self,
        credkey: &str,
        issuer: Option<&str>,
    ) -> Result<Vec<SshKey>, Failure> {
        let setup = self.setup();
        let ssh = self.ssh_setup(&setup)?;
        checked_name(credkey)?;
        let found = self.keys_of(ssh, issuer, credkey).await?;
        let keys: Vec<SshKey> = found
            .keys
            .into_iter()
            .filter(|key| {
                issuer.is_none_or(|issuer| opens(key, issuer, ssh) && key.owner == credkey)
            })
            .collect();
        if keys.is_empty() {
            return Err(Failure::NotFound);
        }
        Ok(keys)
    }

    /// Removes the registered key with `fingerprint`, or all of them, from those of `credkey` at `issuer`, or everywhere. Gives back a
    /// warning for each file whose keys were meant too and go on counting.
    ///
    /// # Errors
    /// [`Failure::NotFound`]; [`BadInput`] for a key that only an administrator can take away, or that stands in a file.
    pub async fn remove_ssh_keys(
        &self,
        by: &Bearer,
        granted: &Granted,
        credkey: &str,
        issuer: Option<&str>,
        fingerprint: Option<&str>,
    ) -> Result<Vec<String>, Failure> {
        self.on_ssh_keys(
            by,
            granted,
            credkey,
            issuer,
            fingerprint,
            "ssh_keys_removed",
            |_| false,
        )
        .await
    }

    /// Lets the key with `fingerprint` end at `end`, or now. Its owner can only bring the end nearer.
    ///
    /// # Errors
    /// As for [`Keeper::remove_ssh_keys`].
    pub async fn expire_ssh_key(
        &self,
        by: &Bearer,
        granted: &Granted,
        credkey: &str,
        issuer: &str,
        fingerprint: &str,
        end: UnixSeconds,
    ) -> Result<Vec<String>, Failure> {
        let administrator = granted.root || granted.sudo;
        self.on_ssh_keys(
            by,
            granted,
            credkey,
            Some(issuer),
            Some(fingerprint),
            "ssh_key_expires",
            |key| {
                let earlier = key.expires_at.is_none_or(|old| end < old);
                if administrator || earlier {
                    key.expires_at = Some(end);
                }
                true
            },
        )
        .await
    }

    /// Does `change` to each key that is meant; where it answers `false` the key goes. Gives back a warning for each file that has one.
    #[expect(
        clippy::too_many_arguments,
        reason = "who, with which right, to which keys, what: each is needed once"
    )]
    async fn on_ssh_keys(
        &self,
        by: &Bearer,
        granted: &Granted,
        credkey: &str,
        issuer: Option<&str>,
        fingerprint: Option<&str>,
        what: &str,
        change: impl Fn(&mut SshKeyRecord) -> bool,
    ) -> Result<Vec<String>, Failure> {
        let setup = self.setup();
        let ssh = self.ssh_setup(&setup)?;
        checked_name(credkey)?;
        let administrator = granted.root || granted.sudo;
        // What is not registered but stands in a file gets its own answer.
        let meant = |print: &str| fingerprint.is_none_or(|wanted| wanted == print);
        let found = self.in_files(&setup, ssh, issuer, credkey).await;
        let in_files = files_of(&found, meant);
        let detail = format!(
            "{} {}",
            fingerprint.unwrap_or("all keys"),
            issuer
                .map(|issuer| format!("at {issuer}"))
                .unwrap_or_default()
        );
        self.change_ssh_keys(credkey, by, what, detail.trim().to_owned(), |registered| {
            let mut touched = false;
            let mut of_all_issuers = false;
            registered.retain_mut(|key| {
                if !meant(&self::fingerprint(&key.line)) {
                    return true;
                }
                match (issuer, key.issuer.as_deref()) {
                    (Some(issuer), Some(own)) if issuer != own => return true,
                    (Some(_), _) if key.owner != credkey => return true,
                    (Some(_), None) if !administrator => {
                        of_all_issuers = true;
                        return true;
                    }
                    _ => {}
                }
                touched = true;
                change(key)
            });
            if touched {
                return Ok(());
            }
            if of_all_issuers {
                return Err(BadInput::Other(
                    "this key was registered by an administrator for all issuers; ask the operators of this server to remove it"
                        .to_owned(),
                )
                .into());
            }
            match in_files.first() {
                Some(path) => Err(BadInput::SshKeyInFile {
                    file: path.display().to_string(),
                }
                .into()),
                None => Err(Failure::NotFound),
            }
        })
        .await?;
        Ok(still_counting(&in_files))
    }

    /// Writes the keys of `credkey` anew, as `change` makes them out of those that are there.
    async fn change_ssh_keys(
        &self,
        credkey: &str,
        by: &Bearer,
        what: &str,
        detail: String,
        change: impl Fn(&mut Vec<SshKeyRecord>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (key, by_name) = (record_name(credkey), self.name_of_user(&by.token).await?);
        loop {
            let stored = self.inner.db.get::<SshKeysRecord>(&key).await?;
            let mut record = stored
                .as_ref()
                .map(|stored| stored.value.clone())
                .unwrap_or_default();
            change(&mut record.keys)?;
            let mut commit = Change::new();
            match &stored {
                Some(stored) => commit.guard(stored.unchanged()),
                None => commit.guard(Guard::Absent(key.clone())),
            };
            if !record.keys.is_empty() {
                commit.put(key.clone(), &record, None)?;
            } else if stored.is_some() {
                commit.delete(key.clone());
            }
            events::record(
                &mut commit,
                &Event {
                    at: self.now(),
                    what: what.to_owned(),
                    subject: format!("ssh keys of {credkey}"),
                    by: by_name.clone(),
                    from: by.from,
                    detail: detail.clone(),
                },
            )?;
            match self.inner.db.commit_critical(commit).await {
                Ok(()) => return Ok(()),
                Err(NotCommitted::Conflict) => {}
                Err(other) => return Err(other.into()),
            }
        }
    }

    /// Every key that is registered under `credkey`, and with `issuer` those that administrators put into files for it.
    pub(super) async fn keys_of(
        &self,
        ssh: &SshSetup,
        issuer: Option<&str>,
        credkey: &str,
    ) -> Result<KeysOf, Failure> {
        let stored = self
            .inner
            .db
            .get::<SshKeysRecord>(&record_name(credkey))
            .await?;
        let mut keys: Vec<SshKey> = stored
            .iter()
            .flat_map(|stored| &stored.value.keys)
            .map(SshKey::registered)
            .collect();
        let mut trouble = None;
        if let Some(issuer) = issuer {
            for (_, read) in read_files(&self.inner.ssh_files, ssh, &[issuer], credkey).await {
                match read {
                    Ok(more) => keys.extend(more.iter().cloned()),
                    Err(why) => trouble = Some(why),
                }
            }
        }
        Ok(KeysOf {
            stored,
            keys,
            trouble,
        })
    }

    /// What stands in files for `credkey`: at `issuer`, or at any.
    async fn in_files(
        &self,
        setup: &Setup,
        ssh: &SshSetup,
        issuer: Option<&str>,
        credkey: &str,
    ) -> Vec<InFile> {
        let all = setup.issuers.iter().map(|issuer| issuer.name.as_str());
        let issuers: Vec<&str> = match issuer {
            Some(issuer) => vec![issuer],
            None => all.collect(),
        };
        read_files(&self.inner.ssh_files, ssh, &issuers, credkey).await
    }

    /// Forgets all registered keys.
    pub(crate) async fn forget_ssh_keys(&self) -> Result<(), Failure> {
        let mut names = Vec::new();
        self.inner
            .db
            .each::<SshKeysRecord>(SSH_KEYS, &[], |stored| {
                names.push(stored.name);
                std::ops::ControlFlow::Continue(())
            })
            .await?;
        for some in names.chunks(50) {
            let mut change = Change::new();
            for name in some {
                change.delete(name.clone());
            }
            self.inner.db.commit(change).await?;
        }
        Ok(())
    }
}

impl KeysOf {
    /// Why there is no key, when that cannot be said for sure.
    pub fn uncertain(&self) -> Option<Failure> {
        self.trouble.as_ref().map(|_| {
            Later::new(
                LaterKind::Store,
                "a file in which the operators of this server keep ssh keys cannot be used, so it is not known whether this key may log in; tell them: the server's log says why",
            )
            .into()
        })
    }
}

/// Whether a key is one for the credentials of `issuer`.
pub(super) fn opens(key: &SshKey, issuer: &str, ssh: &SshSetup) -> bool {
    key.issuer
        .as_deref()
        .is_none_or(|own| own == issuer || ssh.cross_issuer)
}

/// Refuses more keys than `owner` can have at each of `issuers`. Those of other people are not counted, whose name may be the same
/// at another issuer, or but for its case.
fn within_quota(
    registered: &[SshKeyRecord],
    owner: &str,
    issuers: &[Option<String>],
) -> Result<(), BadInput> {
    for issuer in issuers {
        let theirs = registered
            .iter()
            .filter(|key| key.owner == owner && key.issuer == *issuer);
        let (count, bytes) = theirs.fold((0, 0), |(count, bytes), key| {
            (count + 1, bytes + key.line.len() + key.comment.len())
        });
        if count > MOST_KEYS || bytes > MOST_BYTES {
            return Err(BadInput::Other(format!(
                "{owner} can have at most {MOST_KEYS} ssh keys of {} KiB in all; remove some first (gridkeep ssh-keys remove)",
                MOST_BYTES >> 10
            )));
        }
    }
    Ok(())
}

/// The keys among `texts`. Whoever registers all the keys of an agent may have some that cannot be used; an administrator is told.
fn usable(texts: &[String], lenient: bool) -> Result<(Vec<Key>, Vec<String>), BadInput> {
    let mut keys: Vec<Key> = Vec::new();
    let mut left_out = Vec::new();
    let given = texts.iter().filter(|text| !text.trim().is_empty());
    for (index, text) in given.enumerate() {
        if text.len() > LONGEST_LINE {
            left_out.push(format!(
                "public key {}: it is longer than {} KiB",
                index + 1,
                LONGEST_LINE >> 10
            ));
            continue;
        }
        match Key::parse(text) {
            Ok(key) if keys.contains(&key) => {}
            Ok(key) => keys.push(key),
            Err(error) => left_out.push(format!("public key {}: {error}", index + 1)),
        }
    }
    if keys.is_empty() && left_out.is_empty() {
        return Err(BadInput::Other("public_keys must be provided".to_owned()));
    }
    if keys.is_empty() || (!lenient && !left_out.is_empty()) {
        return Err(BadInput::Other(left_out.join("; ")));
    }
    Ok((keys, left_out))
}
