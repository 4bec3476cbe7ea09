//! Putting another root key in the place of the present one, in steps of which each can be the last.
//!
//! The new key lies beside the old as `PATH.new` before the store is sealed under it, and takes its place afterwards; a start in between
//! does the last step. The old key stays as `PATH.old-ID`: copies of the data from before want it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use gridkeep_store::{RootKey, SealState};

/// Where the next key lies until it is the key.
#[must_use]
pub fn next(path: &Path) -> PathBuf {
    with(path, ".new")
}

fn with(path: &Path, more: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(more);
    PathBuf::from(name)
}

/// Puts the new key in place, the old one aside.
///
/// # Errors
/// What the system said.
pub fn put_in_place(path: &Path, old_id: &str) -> anyhow::Result<()> {
    let aside = with(path, &format!(".old-{old_id}"));
    if path.exists() {
        // A link first, so that there is a key at the path at every moment.
        match std::fs::hard_link(path, &aside) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error)
                    .with_context(|| format!("the old key cannot be kept as {}", aside.display()));
            }
            _ => {}
        }
    }
    std::fs::rename(next(path), path)
        .with_context(|| format!("the new key cannot be put at {}", path.display()))?;
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    std::fs::File::open(directory.unwrap_or(Path::new(".")))
        .and_then(|directory| directory.sync_all())
        .with_context(|| format!("{} may not be on the disk yet", path.display()))
}

/// Whether a replacement was begun and not finished.
#[must_use]
pub fn was_interrupted(path: &Path) -> bool {
    next(path).exists() && path.exists()
}

/// At a start: does the last step of a replacement that was interrupted before it. Does nothing where the store has not come to be
/// sealed under the new key.
///
/// # Errors
/// What the system said.
pub fn finish(path: &Path, store: Option<&SealState>) -> anyhow::Result<()> {
    let (old, new) = (RootKey::from_file(path)?, RootKey::from_file(&next(path))?);
    if store.is_some_and(|state| state.root_key_id == new.id()) {
        tracing::warn!(
            path = %path.display(),
            "the replacement of the root key was interrupted when the store was sealed under the new one already; the new one is put in place"
        );
        put_in_place(path, &old.id())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use gridkeep_store::{Initialise, OpenOptions};

    use super::*;

    #[tokio::test]
    async fn an_interrupted_replacement_is_finished_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let (path, data) = (
            directory.path().join("root.key"),
            directory.path().join("data"),
        );
        let key = RootKey::load_or_generate(&path, &data).unwrap();
        let old = key.id();
        let store = gridkeep_store::open(OpenOptions::new(&data, key)).unwrap();
        let new = RootKey::generate_file(&next(&path)).unwrap();
        store.clone().close().await.unwrap();
        let finish = || {
            let state = SealState::in_directory(&data).unwrap();
            super::finish(&path, state.as_ref()).unwrap();
        };
        assert!(was_interrupted(&path));
        finish();
        assert_eq!(
            RootKey::from_file(&path).unwrap().id(),
            old,
            "nothing was replaced yet"
        );

        let mut options = OpenOptions::new(&data, RootKey::from_file(&path).unwrap());
        options.initialise = Initialise::Never;
        let store = gridkeep_store::open(options).unwrap();
        store.replace_root_key(&new).await.unwrap();
        store.close().await.unwrap();
        finish();
        assert_eq!(RootKey::from_file(&path).unwrap().id(), new.id());
        let aside = with(&path, &format!(".old-{old}"));
        assert_eq!(RootKey::from_file(&aside).unwrap().id(), old);
        assert!(!was_interrupted(&path));
        let store =
            gridkeep_store::open(OpenOptions::new(&data, RootKey::from_file(&path).unwrap()));
        store.unwrap().close().await.unwrap();
    }
}
