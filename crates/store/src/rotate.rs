//! Rotation: a new data key, sealing old records under it, and a new root key.
//!
//! Every commit is guarded by the keyring's version, so no record sealed under a key that was taken away can arrive late.

use crate::bootstrap::{
    FORMAT, FORMAT_KEY, Format, KEYRING_KEY, WrappingKey, format_bytes, load, meta_put,
};
use crate::engine::{RawCommitError, RawEntry, RawGuard, RawPut, RawTransaction};
use crate::keyring::Keyring;
use crate::name::all_records;
use crate::store::{Cursor, MAX_PAGE};
use crate::{RootKey, Store, StoreError, Transaction, sealing};

/// The root keys as this process knows them, by their public identifiers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootKeys {
    /// The one that the keyring was sealed under when it was last read.
    pub in_force: String,
    /// Those that this process has: under any of them it can go on.
    pub known: Vec<String>,
    /// The one that another node has put in force and this process does not have: it can write nothing until it has it.
    pub lacking: Option<String>,
}

/// What one round of sealing anew did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resealed {
    /// Records sealed under the newest key.
    pub resealed: usize,
    /// One error for each record that can not be read.
    pub damaged: Vec<StoreError>,
    /// Where to go on, if there is more.
    pub next: Option<Cursor>,
}

impl Store {
    /// Adds a data key; new records are sealed under it from now on. Returns its generation. Old records stay readable; call
    /// [`Store::reseal_all`] to seal them anew and let the old keys go.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn rotate_keyring(&self) -> Result<u32, StoreError> {
        loop {
            let keyring = self.inner.keyring();
            let next = keyring.rotated()?;
            if self.replace_keyring(&keyring, &next).await? {
                return Ok(next.newest());
            }
        }
    }

    /// Seals up to `limit` records under the newest key, where they are not yet. Versions stay, and no watch sees it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn reseal(
        &self,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Resealed, StoreError> {
        let keyring = self.inner.keyring();
        let after = after.as_ref().map(|cursor| cursor.0.as_slice());
        let page = self
            .inner
            .engine
            .scan(&all_records(), after, limit.clamp(1, MAX_PAGE))
            .await?;
        let next = page
            .entries
            .last()
            .filter(|_| page.more)
            .map(|entry| Cursor(entry.key.clone()));
        let mut done = Resealed {
            next,
            ..Resealed::default()
        };
        let mut chunk = Vec::new();
        let mut bytes = 0;
        for raw in page.entries {
            if sealing::generation(&raw.value) == Ok(keyring.newest()) {
                continue;
            }
            let size = raw.value.len() + raw.key.len() + 64;
            if bytes + size > Transaction::MAX_BYTES
                || chunk.len() >= Transaction::MAX_OPERATIONS / 2
            {
                self.reseal_chunk(std::mem::take(&mut chunk), &mut done)
                    .await?;
                bytes = 0;
            }
            bytes += size;
            chunk.push(raw);
        }
        self.reseal_chunk(chunk, &mut done).await?;
        Ok(done)
    }

    async fn reseal_chunk(
        &self,
        mut chunk: Vec<RawEntry>,
        done: &mut Resealed,
    ) -> Result<(), StoreError> {
        let mut keyring = self.inner.keyring();
        loop {
            let mut transaction = RawTransaction::default();
            let mut kept = Vec::with_capacity(chunk.len());
            for raw in chunk {
                let entry = match self.inner.open(&keyring, raw.clone()).await {
                    Ok(entry) => entry,
                    Err(error) if error.is_temporary() => return Err(error),
                    Err(error) => {
                        done.damaged.push(error);
                        continue;
                    }
                };
                let value =
                    sealing::seal(keyring.sealing_key()?, &raw.key, &entry.name, &entry.record)?;
                transaction
                    .guards
                    .push(RawGuard::At(raw.key.clone(), raw.version));
                transaction.puts.push(RawPut {
                    key: raw.key.clone(),
                    value,
                    expires_at: entry.record.expires_at,
                    keep_version: true,
                });
                kept.push(raw);
            }
            chunk = kept;
            if chunk.is_empty() {
                return Ok(());
            }
            transaction
                .guards
                .push(RawGuard::At(KEYRING_KEY.to_vec(), keyring.version));
            match self.inner.engine.commit(transaction).await {
                Ok(_) => {
                    done.resealed += chunk.len();
                    return Ok(());
                }
                // Written anew since it was read, and so under the newest key.
                Err(RawCommitError::Conflict(index)) if index < chunk.len() => {
                    drop(chunk.remove(index))
                }
                Err(RawCommitError::Conflict(_)) => {
                    keyring = self.inner.reload_keyring(keyring.version).await?
                }
                Err(RawCommitError::Store(error)) => return Err(error),
            }
        }
    }

    /// Seals all records under the newest key and then forgets the older keys, unless a record could not be read.
    ///
    /// # Errors
    /// [`StoreError`]; calling again goes on where it stopped.
    pub async fn reseal_all(&self) -> Result<Resealed, StoreError> {
        // What is written from here on is sealed under this generation or a later one.
        let oldest = self.inner.keyring().newest();
        let mut all = Resealed::default();
        loop {
            let round = self.reseal(all.next.take(), MAX_PAGE).await?;
            all.resealed += round.resealed;
            all.damaged.extend(round.damaged);
            all.next = round.next;
            if all.next.is_none() {
                break;
            }
        }
        while all.damaged.is_empty() {
            let keyring = self.inner.keyring();
            let next = keyring.since(oldest)?;
            if next.generations() == keyring.generations()
                || self.replace_keyring(&keyring, &next).await?
            {
                break;
            }
        }
        Ok(all)
    }

    /// Seals the keyring under another root key. The old one is of no use for this store afterwards.
    ///
    /// # Errors
    /// [`StoreError::RootKeyReplaced`] when another node has replaced it meanwhile: then nothing is changed. Else [`StoreError`].
    pub async fn replace_root_key(&self, root_key: &RootKey) -> Result<(), StoreError> {
        let _one_at_a_time = self.inner.replacing_root_key.lock().await;
        let next = WrappingKey::of(root_key);
        let before = self.inner.keyring().root_key_id.clone();
        // Known before it is used, so that whoever reads the keyring in between can open it.
        let new = self.inner.know(next.clone());
        // What another node has put in force is not taken away by one that did not know of it.
        let overtaken = |by: String| {
            if new {
                self.inner.forget(&next.root_key_id);
            }
            StoreError::RootKeyReplaced { by }
        };
        loop {
            let keyring = self.inner.keyring();
            if ![&before, &next.root_key_id].contains(&&keyring.root_key_id) {
                return Err(overtaken(keyring.root_key_id.clone()));
            }
            let format = Format {
                format: FORMAT,
                write_level: self.inner.write_level,
                store: self.inner.store_id.clone(),
                root_key: next.root_key_id.clone(),
                shares: next.shares,
            };
            let sealed = keyring.seal(&next.secret, self.inner.store_id.as_bytes())?;
            let transaction = RawTransaction {
                guards: vec![RawGuard::At(KEYRING_KEY.to_vec(), keyring.version)],
                puts: vec![
                    meta_put(FORMAT_KEY, format_bytes(&format)?),
                    meta_put(KEYRING_KEY, sealed),
                ],
                ..RawTransaction::default()
            };
            let done = match self.inner.engine.commit(transaction).await {
                Ok(_) => true,
                Err(RawCommitError::Conflict(_)) => false,
                // Both keys stay known: under which of them it is sealed may be unknown.
                Err(RawCommitError::Store(error)) => return Err(error),
            };
            match self.inner.reload_keyring(keyring.version).await {
                Err(StoreError::ForeignRootKey { expected, .. }) if !done => {
                    return Err(overtaken(expected));
                }
                other => other?,
            };
            if done {
                break;
            }
        }
        // Others that are expected stay known: another node may be about to put one of them in force.
        if ![&next.root_key_id, &self.inner.keyring().root_key_id].contains(&&before) {
            self.inner.forget(&before);
        }
        Ok(())
    }

    /// Takes a root key for known that another node is about to seal the keyring under, so that this one can go on then.
    pub fn expect_root_key(&self, root_key: &RootKey) {
        self.inner.know(WrappingKey::of(root_key));
    }

    /// The root keys as this process knows them.
    #[must_use]
    pub fn root_keys(&self) -> RootKeys {
        let known = self.inner.wrapping_keys();
        RootKeys {
            in_force: self.inner.keyring().root_key_id.clone(),
            known: known.into_iter().map(|key| key.root_key_id).collect(),
            lacking: self.inner.lacking(),
        }
    }

    /// False if the keyring was changed by somebody else; then it has been read again.
    async fn replace_keyring(&self, keyring: &Keyring, next: &Keyring) -> Result<bool, StoreError> {
        let wrapping_key = self.inner.wrapping_key(keyring)?;
        let sealed = next.seal(&wrapping_key.secret, self.inner.store_id.as_bytes())?;
        let transaction = RawTransaction {
            guards: vec![RawGuard::At(KEYRING_KEY.to_vec(), keyring.version)],
            puts: vec![meta_put(KEYRING_KEY, sealed)],
            ..RawTransaction::default()
        };
        let replaced = match self.inner.engine.commit(transaction).await {
            Ok(_) => true,
            Err(RawCommitError::Conflict(_)) => false,
            Err(RawCommitError::Store(error)) => return Err(error),
        };
        self.inner.reload_keyring(keyring.version).await?;
        Ok(replaced)
    }

    /// True if this key is the one the store is sealed under.
    ///
    /// # Errors
    /// [`StoreError`] but for [`StoreError::ForeignRootKey`].
    pub async fn is_sealed_under(&self, root_key: &RootKey) -> Result<bool, StoreError> {
        match load(&*self.inner.engine, &[WrappingKey::of(root_key)]).await {
            Ok(found) => Ok(found.is_some()),
            Err(StoreError::ForeignRootKey { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
