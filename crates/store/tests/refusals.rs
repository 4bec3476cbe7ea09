//! Every refusal to open, each with its own error and a text that says what happened, what it means and what to do; and that a
//! refusal changes nothing.

#![allow(clippy::unwrap_used, reason = "a test: a panic is its verdict")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use gridkeep_store::{Initialise, OpenOptions, RootKey, SealState, StoreError, holds_data, open};
use support::{Place, get, put};

/// All files below a directory.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let Ok(entries) = fs::read_dir(directory) else {
        return all;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        all.insert(path.clone(), fs::read(path).unwrap());
    }
    all
}

async fn filled() -> Place {
    let place = Place::new();
    let store = place.open().unwrap();
    put(&store, "a", b"1").await;
    store.close().await.unwrap();
    place
}

/// The text has its three parts, and nothing was changed.
fn refused(
    place: &Place,
    open: impl FnOnce() -> Result<(), StoreError>,
    words: &[&str],
) -> StoreError {
    let before = contents(&place.data());
    let error = open().unwrap_err();
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
    assert!(text.matches(". ").count() >= 1, "says what to do: {text}");
    assert_eq!(contents(&place.data()), before, "a refusal changes nothing");
    error
}

#[tokio::test]
async fn data_of_a_newer_format() {
    let place = filled().await;
    let marker = place.data().join("STORE");
    let text = fs::read_to_string(&marker).unwrap();
    fs::write(&marker, text.replace(":1", ":2")).unwrap();
    let error = refused(
        &place,
        || place.open().map(drop),
        &["format 2", "up to 1", "newer version", "Start that version"],
    );
    assert_eq!(
        error,
        StoreError::NewerFormat {
            found: 2,
            supported: 1
        }
    );
}

#[tokio::test]
async fn data_of_another_root_key() {
    let place = filled().await;
    let right = RootKey::from_file(&place.key()).unwrap().id();
    let other = place.beside("other.key");
    let given = RootKey::generate_file(&other).unwrap().id();
    let open_with = |key| {
        open(OpenOptions {
            reserve_bytes: 65536,
            ..OpenOptions::new(&place.data(), key)
        })
        .map(drop)
    };
    for key in [
        RootKey::from_file(&other),
        RootKey::generate_file(&place.beside("third.key")),
    ] {
        let error = open_with(key.unwrap()).unwrap_err();
        let StoreError::ForeignRootKey { expected, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(expected, &right);
    }
    let error = open_with(RootKey::from_file(&other).unwrap()).unwrap_err();
    assert_eq!(
        error,
        StoreError::ForeignRootKey {
            expected: right,
            given
        }
    );
    assert!(
        error
            .to_string()
            .contains("Give the key that belongs to this data")
    );
    // The right one still opens it.
    assert_eq!(
        get(&place.open().unwrap(), "a").await.as_deref(),
        Some(&b"1"[..])
    );
}

#[tokio::test]
async fn data_in_use() {
    let place = filled().await;
    let store = place.open().unwrap();
    let error = refused(
        &place,
        || place.open().map(drop),
        &["in use by another process", "End the other process"],
    );
    assert_eq!(error, StoreError::InUse { path: place.data() });
    assert!(error.is_temporary());
    let clone = store.clone();
    drop(store);
    assert!(place.open().is_err(), "as long as any handle is left");
    drop(clone);
    place.open().unwrap();
}

#[tokio::test]
async fn a_glance_at_the_root_key_that_is_wanted_changes_nothing() {
    let place = filled().await;
    let before = contents(&place.data());
    let wanted = SealState::glance(&place.data()).unwrap().unwrap();
    let key = RootKey::from_file(&place.key()).unwrap();
    assert_eq!(wanted.root_key_id, key.id());
    assert_eq!(contents(&place.data()), before);
    let store = place.open().unwrap();
    let error = SealState::glance(&place.data()).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    store.close().await.unwrap();
    assert_eq!(SealState::glance(&place.beside("nowhere")), Ok(None));
}

#[tokio::test]
async fn a_key_without_data() {
    let place = filled().await;
    fs::rename(place.data(), place.beside("away")).unwrap();
    let error = refused(
        &place,
        || place.open().map(drop),
        &[
            "root key, but no data",
            "a directory that is not mounted",
            "Mount or restore",
        ],
    );
    assert_eq!(error, StoreError::KeyWithoutData { path: place.data() });
    // An empty mount point is no data either, and nothing is made in it.
    fs::create_dir(place.data()).unwrap();
    assert_eq!(
        place.open().map(drop),
        Err(StoreError::KeyWithoutData { path: place.data() })
    );
    assert!(contents(&place.data()).is_empty());
    // Unless an operator says so.
    let options = OpenOptions {
        initialise: Initialise::WithGivenKey,
        ..place.options()
    };
    let store = open(options).unwrap();
    assert_eq!(get(&store, "a").await, None);
}

#[tokio::test]
async fn data_without_a_key() {
    let place = filled().await;
    fs::rename(place.key(), place.beside("away")).unwrap();
    let error = refused(
        &place,
        || place.open().map(drop),
        &["data in", "no root key at", "Restore the key file"],
    );
    assert_eq!(
        error,
        StoreError::DataWithoutKey {
            data: place.data(),
            key: place.key()
        }
    );
    assert!(
        !place.key().exists(),
        "no key is made that would hide the loss"
    );
    // Without its marker, data is still data.
    fs::remove_file(place.data().join("STORE")).unwrap();
    assert!(matches!(
        place.open(),
        Err(StoreError::DataWithoutKey { .. })
    ));
    fs::rename(place.beside("away"), place.key()).unwrap();
    assert_eq!(
        get(&place.open().unwrap(), "a").await.as_deref(),
        Some(&b"1"[..])
    );
}

#[tokio::test]
async fn nothing_and_not_to_be_made() {
    let place = Place::new();
    let key = RootKey::generate_file(&place.key()).unwrap();
    let options = OpenOptions {
        initialise: Initialise::Never,
        ..OpenOptions::new(&place.data(), key)
    };
    let error = refused(
        &place,
        || open(options).map(drop),
        &["no data in", "initialising was not asked for"],
    );
    assert_eq!(error, StoreError::NotInitialised { path: place.data() });
    assert!(!place.data().exists());
}

#[tokio::test]
async fn an_interrupted_first_start_is_taken_up_again() {
    // Between the key and the data.
    let place = Place::new();
    drop(place.options());
    let store = place.open().unwrap();
    put(&store, "a", b"1").await;
    drop(store);
    assert_eq!(
        get(&place.open().unwrap(), "a").await.as_deref(),
        Some(&b"1"[..])
    );
    // In the middle of making the data.
    let place = Place::new();
    drop(place.options());
    fs::write(place.data().join("store.redb"), b"half a file").unwrap();
    let store = place.open().unwrap();
    put(&store, "a", b"2").await;
    drop(store);
    assert_eq!(
        get(&place.open().unwrap(), "a").await.as_deref(),
        Some(&b"2"[..])
    );
    // Before the key.
    let place = Place::new();
    assert_eq!(holds_data(&place.data()), Ok(false));
    drop(place.options());
    assert_eq!(holds_data(&place.data()), Ok(false));
    fs::remove_file(place.key()).unwrap();
    drop(place.open().unwrap());
    assert_eq!(holds_data(&place.data()), Ok(true));
}

#[tokio::test]
async fn files_that_are_not_what_was_written() {
    type Damage = (&'static str, fn(&Path));
    let damage: [Damage; 5] = [
        ("no data file", |data| {
            fs::remove_file(data.join("store.redb")).unwrap()
        }),
        ("empty data file", |data| {
            fs::write(data.join("store.redb"), b"").unwrap()
        }),
        ("short data file", |data| {
            fs::write(data.join("store.redb"), b"redb").unwrap()
        }),
        ("other data file", |data| {
            fs::write(data.join("store.redb"), vec![0x5a; 100_000]).unwrap()
        }),
        ("other marker", |data| {
            fs::write(data.join("STORE"), b"something").unwrap()
        }),
    ];
    for (label, damage) in damage {
        let place = filled().await;
        damage(&place.data());
        let error = place.open().map(drop).unwrap_err();
        assert!(
            matches!(error, StoreError::Damaged { .. }),
            "{label}: {error:?}"
        );
        assert!(
            error.to_string().contains("restore the last backup"),
            "{label}: {error}"
        );
        assert!(!error.is_temporary());
    }
}

#[test]
fn key_files_are_checked() {
    let place = Place::new();
    let refusal = |path: &Path| match RootKey::from_file(path) {
        Err(StoreError::RootKey { problem, .. }) => problem,
        other => panic!("{other:?}"),
    };
    let key = place.key();
    let made = RootKey::generate_file(&key).unwrap();
    assert_eq!(
        fs::metadata(&key).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    assert_eq!(RootKey::from_file(&key).unwrap().id(), made.id());
    let text = fs::read_to_string(&key).unwrap();
    assert!(
        !format!("{made:?}").contains(text.trim().split(':').nth(1).unwrap()),
        "the key is not in its Debug text"
    );

    let again = RootKey::generate_file(&key).map(|_| ()).unwrap_err();
    assert!(again.to_string().contains("not overwritten"), "{again}");
    assert_eq!(fs::read_to_string(&key).unwrap(), text);
    for mode in [0o644, 0o640, 0o602, 0o660] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        assert!(
            refusal(&key).contains("others can read or write it"),
            "{mode:o}"
        );
    }
    // The service manager's own directory shows its access lists as group bits.
    fs::set_permissions(&key, fs::Permissions::from_mode(0o440)).unwrap();
    let directory = key.parent().unwrap();
    assert_eq!(
        RootKey::from_credential_in(directory, "root.key")
            .unwrap()
            .id(),
        made.id()
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o444)).unwrap();
    assert!(RootKey::from_credential_in(directory, "root.key").is_err());

    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    if nix::unistd::geteuid().is_root() {
        // Root reads the key of the user of the service.
        std::os::unix::fs::chown(&key, Some(54_321), None).unwrap();
        assert_eq!(RootKey::from_file(&key).unwrap().id(), made.id());
        std::os::unix::fs::chown(&key, Some(0), None).unwrap();
    }
    for bad in [
        "",
        "x",
        text.trim().get(..30).unwrap(),
        &text.replace("-1:", "-2:"),
        &format!("{}AAAA", text.trim()),
    ] {
        fs::write(&key, bad).unwrap();
        assert!(refusal(&key).contains("not a root key"), "{bad}");
    }
    assert!(refusal(directory).contains("not a regular file"));
    assert!(refusal(&place.beside("none")).contains("Check the path"));
    let fifo = place.beside("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(
        refusal(&fifo).contains("not a regular file"),
        "and does not wait for a writer"
    );
    let nowhere = RootKey::generate_file(&place.beside("no/such/directory"))
        .map(drop)
        .unwrap_err();
    assert!(
        nowhere
            .to_string()
            .contains("Check that its directory exists"),
        "{nowhere}"
    );
}

#[tokio::test]
async fn no_file_holds_a_secret_or_a_name() {
    let place = Place::new();
    let store = place.open().unwrap();
    for n in 0..50 {
        put(
            &store,
            &format!("canary-name-{n}"),
            b"canary-body-refresh-token",
        )
        .await;
    }
    store.rotate_keyring().await.unwrap();
    let derived = store.derive_key("canary").to_vec();
    store.reseal_all().await.unwrap();
    store.close().await.unwrap();
    let key = fs::read_to_string(place.key()).unwrap();
    let secrets = [
        &b"canary-name"[..],
        b"canary-body",
        &derived,
        key.trim().split(':').nth(1).unwrap().as_bytes(),
    ];
    let files = contents(&place.data());
    assert!(files.len() >= 3);
    for (path, bytes) in files {
        for secret in secrets {
            assert!(
                !bytes.windows(secret.len()).any(|window| window == secret),
                "{} holds a secret",
                path.display()
            );
        }
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o077,
            0,
            "{} is for its owner only",
            path.display()
        );
    }
    assert_eq!(
        fs::metadata(place.data()).unwrap().permissions().mode() & 0o077,
        0
    );
}
