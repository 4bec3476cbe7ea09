//! Splitting the root key anew: who holds enough shares of the present one gets shares of another, which takes its place.
//!
//! Owns the attempt, of which there is one at a time, in memory: nothing of it survives the process, and the present shares count until
//! the store is sealed under the new key. The new shares are kept until another attempt begins, for the answer that tells them may be
//! lost. Knows nothing of how shares are written down.

use std::sync::Arc;

use gridkeep_store::shamir::Share;
use gridkeep_store::{RootKey, SealState, Shares};
use tokio::sync::{Mutex, MutexGuard};

use crate::cluster::NodeState;
use crate::database::failure;
use crate::failure::{BadInput, Failure, Later, LaterKind};
use crate::keeper::Keeper;
use crate::secret::random_uuid;

/// Why a request about it is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the text of each variant says what it is")]
pub enum RekeyRefused {
    #[error(
        "rekeying is not supported by this server: its root key lies in a file or credential and has no shares; replace it with gridkeep operator rotate-root-key"
    )]
    NoShares,
    #[error("rekey already in progress")]
    UnderWay,
    #[error("no rekey in progress")]
    NotUnderWay,
    #[error("no rekey verification in progress")]
    NothingToVerify,
    #[error("invalid rekey seal configuration: {0}")]
    Numbers(&'static str),
    #[error("incorrect nonce supplied; nonce for this rekey operation is \"{0}\"")]
    Nonce(String),
    #[error("invalid key: a share of this server has {wanted} bytes, this has {given}")]
    Length { wanted: usize, given: usize },
    #[error(
        "rekey failed, invalid key: at least one share is not of the present root key; give all of them again"
    )]
    Foreign,
    #[error(
        "rekey verification failed: incorrect root key supplied; give the new shares again, or cancel and begin anew"
    )]
    NotVerified,
    #[error(
        "the store is sealed under the new root key already, and only this attempt knows its shares: give the shares that it asks for again"
    )]
    Replaced,
    #[error(
        "other nodes serve on this store and would not know the new root key: {0}; seal or stop them, and unseal them with the new shares afterwards"
    )]
    OtherNodes(String),
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RekeyStatus {
    /// Shares of the present root key that it takes.
    pub required: u8,
    /// The attempt, if there is one.
    pub attempt: Option<RekeyAttempt>,
}

/// An attempt under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RekeyAttempt {
    /// Identifies it.
    pub nonce: String,
    /// How the new key is to be split.
    pub wanted: Shares,
    /// Shares of the present key given so far.
    pub progress: usize,
    /// Whether the new shares have to be given back before they count.
    pub verify: bool,
    /// That being under way: what identifies it, and how many new shares were given.
    pub verification: Option<(String, usize)>,
}

/// The new shares.
pub struct NewShares {
    /// Identifies the attempt they come of.
    pub nonce: String,
    /// The shares.
    pub shares: Vec<Share>,
    /// How the new key is split.
    pub split: Shares,
    /// Identifies the verification that has to follow before they count.
    pub verification: Option<String>,
}

/// The attempt that may be under way.
#[derive(Default)]
pub(crate) struct Rekeying(Mutex<Option<Attempt>>);

struct Attempt {
    nonce: String,
    /// The root key that it began with.
    present: SealState,
    required: Shares,
    wanted: Shares,
    verify: bool,
    given: Vec<Share>,
    /// The new key, once the present one was proven. It stays the same however often the store has to be asked: under which of the two it
    /// is sealed may be unknown.
    new: Option<New>,
    /// Whether the new key took the place of the present one. Nothing is left to do then but to tell its shares again.
    in_force: bool,
    /// What identifies the verification, and the new shares given back.
    verifying: Option<(String, Vec<Share>)>,
}

struct New {
    key: Arc<RootKey>,
    shares: Vec<Share>,
}

impl Keeper {
    /// How far it is.
    ///
    /// # Errors
    /// [`RekeyRefused::NoShares`]; [`Failure::Later`] when the store cannot be read.
    pub async fn rekey_status(&self) -> Result<RekeyStatus, Failure> {
        let (_, present) = self.present_shares().await?;
        let slot = self.inner.rekeying.0.lock().await;
        let attempt = slot.as_ref().filter(|attempt| !attempt.is_over());
        let required = attempt.map_or(present, |attempt| attempt.required);
        Ok(RekeyStatus {
            required: required.threshold,
            attempt: attempt.map(Attempt::told),
        })
    }

    /// Begins an attempt at a root key split like this; with `verify`, its shares have to be given back before it counts.
    ///
    /// # Errors
    /// [`RekeyRefused`]; [`Failure::Later`] when the store cannot be read.
    pub async fn begin_rekey(&self, wanted: Shares, verify: bool) -> Result<(), Failure> {
        let (present, required) = self.present_shares().await?;
        let Shares { count, threshold } = wanted;
        let wrong = match (count, threshold) {
            (0, _) | (_, 0) => Some("shares and threshold must be at least one"),
            _ if threshold > count => Some("threshold cannot be larger than shares"),
            _ if threshold == 1 && count > 1 => {
                Some("threshold must be greater than one for multiple shares")
            }
            _ => None,
        };
        if let Some(wrong) = wrong {
            return Err(refused(RekeyRefused::Numbers(wrong)));
        }
        self.alone_on_the_store()?;
        let mut attempt = self.inner.rekeying.0.lock().await;
        if attempt.as_ref().is_some_and(|attempt| !attempt.in_force) {
            return Err(refused(RekeyRefused::UnderWay));
        }
        *attempt = Some(Attempt {
            nonce: random_uuid(),
            present,
            required,
            wanted,
            verify,
            given: Vec::new(),
            new: None,
            in_force: false,
            verifying: None,
        });
        tracing::warn!(
            shares = count,
            threshold,
            "somebody has begun to split the root key anew"
        );
        Ok(())
    }

    /// Takes a share of the present root key; the new shares when it was the last one needed. Without verification they count from then
    /// on, and the present ones no longer, but that they tell the same new ones again until another attempt begins or this one is
    /// cancelled.
    ///
    /// # Errors
    /// [`RekeyRefused`]; [`Failure::Later`] when the store cannot be written: then the present shares, given again, go on with it.
    pub async fn give_share(
        &self,
        nonce_given: &str,
        share: Share,
        by: &str,
    ) -> Result<Option<NewShares>, Failure> {
        let mut slot = self.inner.rekeying.0.lock().await;
        let attempt = under_way(&mut slot)?;
        if attempt.verifying.is_some() {
            return Err(refused(RekeyRefused::UnderWay));
        }
        same_nonce(&attempt.nonce, nonce_given)?;
        if !accepted(&mut attempt.given, share, attempt.required)? {
            return Ok(None);
        }
        let given = std::mem::take(&mut attempt.given);
        if !is_key(&given, attempt.required, &attempt.present.root_key_id) {
            return Err(refused(RekeyRefused::Foreign));
        }
        if attempt.new.is_none() {
            let (key, shares) =
                RootKey::generate_shared(attempt.wanted).map_err(|error| failure(&error))?;
            let key = Arc::new(key);
            attempt.new = Some(New { key, shares });
        }
        let Some(New { key, shares }) = &attempt.new else {
            return Err(refused(RekeyRefused::NotUnderWay));
        };
        let mut told = NewShares {
            nonce: attempt.nonce.clone(),
            shares: shares.clone(),
            split: attempt.wanted,
            verification: None,
        };
        if attempt.verify {
            let nonce = random_uuid();
            told.verification = Some(nonce.clone());
            attempt.verifying = Some((nonce, Vec::new()));
            return Ok(Some(told));
        }
        if attempt.in_force {
            tracing::warn!("the new shares of the root key are told again");
            return Ok(Some(told));
        }
        self.alone_on_the_store()?;
        self.replace_root_key(key, by).await?;
        attempt.in_force = true;
        Ok(Some(told))
    }

    /// Takes a new share back; how the new key is split when it was the last one needed. From then on the new shares count.
    ///
    /// # Errors
    /// [`RekeyRefused`]; [`Failure::Later`] when the store cannot be written: then verifying begins again.
    pub async fn give_share_back(
        &self,
        nonce_given: &str,
        share: Share,
        by: &str,
    ) -> Result<Option<Shares>, Failure> {
        let mut slot = self.inner.rekeying.0.lock().await;
        let attempt = under_way(&mut slot)?;
        let wanted = attempt.wanted;
        let (Some((nonce, given)), Some(new)) = (&mut attempt.verifying, &attempt.new) else {
            return Err(refused(RekeyRefused::NothingToVerify));
        };
        same_nonce(nonce, nonce_given)?;
        if !accepted(given, share, wanted)? {
            return Ok(None);
        }
        if !is_key(&std::mem::take(given), wanted, &new.key.id()) {
            return Err(refused(RekeyRefused::NotVerified));
        }
        self.alone_on_the_store()?;
        self.replace_root_key(&new.key, by).await?;
        *slot = None;
        Ok(Some(wanted))
    }

    /// Ends the attempt; the present shares stay. The new ones of an attempt that is done are forgotten.
    ///
    /// # Errors
    /// [`RekeyRefused::Replaced`]; [`Failure::Later`] when the store cannot be read.
    pub async fn cancel_rekey(&self) -> Result<(), Failure> {
        let mut slot = self.inner.rekeying.0.lock().await;
        let Some(attempt) = slot.as_ref() else {
            return Ok(());
        };
        if attempt.in_force {
            *slot = None;
            return Ok(());
        }
        let (state, _) = self.present_shares().await?;
        if state != attempt.present {
            return Err(refused(RekeyRefused::Replaced));
        }
        *slot = None;
        tracing::warn!("the attempt to split the root key anew was cancelled");
        Ok(())
    }

    /// Forgets the new shares that were given back so far.
    ///
    /// # Errors
    /// [`RekeyRefused::NothingToVerify`].
    pub async fn restart_verification(&self) -> Result<(), Failure> {
        let mut slot = self.inner.rekeying.0.lock().await;
        let verifying = slot.as_mut().and_then(|attempt| attempt.verifying.as_mut());
        let verifying = verifying.ok_or_else(|| refused(RekeyRefused::NothingToVerify))?;
        *verifying = (random_uuid(), Vec::new());
        Ok(())
    }

    async fn present_shares(&self) -> Result<(SealState, Shares), Failure> {
        let state = self.inner.db.store.seal_state().await;
        let state = state.map_err(|error| failure(&error))?;
        let shares = state
            .shares
            .ok_or_else(|| refused(RekeyRefused::NoShares))?;
        Ok((state, shares))
    }

    /// Other nodes have no way to learn of a key that nobody holds.
    fn alone_on_the_store(&self) -> Result<(), Failure> {
        if !self.is_shared() {
            return Ok(());
        }
        // Whoever does not hear himself hears nobody.
        if !self.fresh() {
            return Err(Later::new(
                LaterKind::Store,
                "this node has not heard from the store for a while and cannot say whether it is alone on it, as a rekey demands; try again",
            )
            .into());
        }
        let others: Vec<String> = self
            .cluster_status()
            .nodes
            .into_iter()
            .filter(|node| !node.here && node.state == NodeState::Live)
            .map(|node| node.name)
            .collect();
        if others.is_empty() {
            return Ok(());
        }
        Err(refused(RekeyRefused::OtherNodes(others.join(", "))))
    }
}

impl Attempt {
    /// Whether it is done, and nobody is asking for its shares again.
    fn is_over(&self) -> bool {
        self.in_force && self.given.is_empty()
    }

    fn told(&self) -> RekeyAttempt {
        RekeyAttempt {
            nonce: self.nonce.clone(),
            wanted: self.wanted,
            progress: self.given.len(),
            verify: self.verify,
            verification: self
                .verifying
                .as_ref()
                .map(|(nonce, given)| (nonce.clone(), given.len())),
        }
    }
}

fn refused(why: RekeyRefused) -> Failure {
    BadInput::Rekey(why).into()
}

fn under_way<'a>(
    slot: &'a mut MutexGuard<'_, Option<Attempt>>,
) -> Result<&'a mut Attempt, Failure> {
    slot.as_mut()
        .ok_or_else(|| refused(RekeyRefused::NotUnderWay))
}

fn same_nonce(nonce: &str, given: &str) -> Result<(), Failure> {
    if given == nonce {
        return Ok(());
    }
    Err(refused(RekeyRefused::Nonce(nonce.to_owned())))
}

/// Adds a share; true if they are enough. The same one again counts once.
fn accepted(given: &mut Vec<Share>, share: Share, split: Shares) -> Result<bool, Failure> {
    let wanted = split.share_length();
    if share.len() != wanted {
        let given = share.len();
        return Err(refused(RekeyRefused::Length { wanted, given }));
    }
    if !given.contains(&share) {
        given.push(share);
    }
    Ok(given.len() >= usize::from(split.threshold))
}

fn is_key(given: &[Share], split: Shares, id: &str) -> bool {
    RootKey::from_shares(split, given).is_ok_and(|key| key.id() == id)
}
