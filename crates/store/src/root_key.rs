//! The root key: where it comes from and what is derived from it.
//!
//! Owns the checks on key files. Knows nothing of what is sealed under the key. A new source of root keys is one more
//! constructor here.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::{hkdf, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::shamir::{self, Share, SharesError};
use crate::{Shares, StoreError};

/// What the text of a key file begins with; the number is that of the form.
const HEADER: &str = "gridkeep-root-key-1:";

/// The key everything in a store is sealed under, by way of the keyring.
pub struct RootKey {
    secret: Zeroizing<[u8; 32]>,
    source: PathBuf,
    fresh: bool,
    shares: Option<Shares>,
}

impl std::fmt::Debug for RootKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RootKey")
            .field("id", &self.id())
            .field("source", &self.source)
            .field("fresh", &self.fresh)
            .finish()
    }
}

impl RootKey {
    /// Reads a key file. It must be a regular file of this user's or root's that nobody else can read. Root reads any user's: who
    /// carries out an operator's order is not always the user of the service.
    ///
    /// # Errors
    /// [`StoreError::RootKey`].
    pub fn from_file(path: &Path) -> Result<Self, StoreError> {
        Self::read(path, 0o077)
    }

    /// Reads the credential of this name that the service manager has put into the directory named by
    /// `CREDENTIALS_DIRECTORY` (systemd.exec(5)). That directory is the service's own, and the manager grants it by access
    /// control lists, which show as group bits; so only access for others is refused.
    ///
    /// # Errors
    /// [`StoreError::RootKey`]; also where there is no such directory.
    pub fn from_credential_dir(name: &str) -> Result<Self, StoreError> {
        let directory = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
            problem(
                Path::new(name),
                "the service manager has given no credentials (CREDENTIALS_DIRECTORY is not set)",
            )
        })?;
        Self::from_credential_in(Path::new(&directory), name)
    }

    /// As [`RootKey::from_credential_dir`], from a given directory.
    ///
    /// # Errors
    /// [`StoreError::RootKey`].
    pub fn from_credential_in(directory: &Path, name: &str) -> Result<Self, StoreError> {
        Self::read(&directory.join(name), 0o007)
    }

    /// Makes a new key and writes it to a new file that only its owner can read, durably.
    ///
    /// # Errors
    /// [`StoreError::RootKey`]; also if the file exists: a key is never overwritten.
    pub fn generate_file(path: &Path) -> Result<Self, StoreError> {
        let mut secret = Zeroizing::new([0; 32]);
        rand::fill(&mut *secret).map_err(|_| StoreError::Sealing)?;
        let key = Self {
            secret,
            source: path.to_owned(),
            fresh: true,
            shares: None,
        };
        write_new(path, key.to_text().as_bytes()).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => problem(path, "it exists already and is not overwritten. Use it, or move it away"),
            _ => problem(path, &format!("it can not be written ({error}). Check that its directory exists and may be written")),
        })?;
        Ok(key)
    }

    /// Makes a new key that lies nowhere but in its shares.
    ///
    /// # Errors
    /// [`StoreError::Sealing`]; also if the numbers make no sense.
    pub fn generate_shared(shares: Shares) -> Result<(Self, Vec<Share>), StoreError> {
        let secret = crate::sealing::random()?;
        let parts = shamir::split(&*secret, shares.count, shares.threshold)?;
        let key = Self {
            secret,
            source: PathBuf::from("of the shares"),
            fresh: true,
            shares: Some(shares),
        };
        Ok((key, parts))
    }

    /// The key of these shares, as many as the threshold; whether it is the right one, [`RootKey::id`] tells.
    ///
    /// # Errors
    /// [`SharesError`].
    pub fn from_shares(shares: Shares, parts: &[Share]) -> Result<Self, SharesError> {
        let whole = match (shares.threshold, parts) {
            (1, [only]) => only.clone(),
            _ => shamir::combine(parts)?,
        };
        let secret = Zeroizing::new(
            whole
                .as_slice()
                .try_into()
                .map_err(|_| SharesError::Length)?,
        );
        Ok(Self {
            secret,
            source: PathBuf::from("of the shares"),
            fresh: false,
            shares: Some(shares),
        })
    }

    /// The text of a key file, from somewhere else than a file.
    ///
    /// # Errors
    /// [`StoreError::RootKey`] if it is none.
    pub fn from_text(text: &[u8]) -> Result<Self, StoreError> {
        let source = Path::new("given");
        let secret = parse(text).ok_or_else(|| not_a_key(source))?;
        Ok(Self {
            secret,
            source: source.to_owned(),
            fresh: false,
            shares: None,
        })
    }

    /// The key as the text of a key file.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(80));
        text.push_str(HEADER);
        URL_SAFE_NO_PAD.encode_string(self.secret.as_slice(), &mut text);
        text.push('\n');
        text
    }

    /// How it was split, if it was.
    #[must_use]
    pub fn shares(&self) -> Option<Shares> {
        self.shares
    }

    /// Reads the key file, or makes it if neither it nor any data exists: the first start.
    ///
    /// A start that was interrupted between making the key and making the data is taken up again, because the data directory
    /// notes that it is being initialised before the key is made.
    ///
    /// # Errors
    /// [`StoreError::DataWithoutKey`] if there is data but no key; else as [`RootKey::from_file`] and
    /// [`RootKey::generate_file`].
    pub fn load_or_generate(path: &Path, data: &Path) -> Result<Self, StoreError> {
        match fs::symlink_metadata(path) {
            Ok(_) => Self::from_file(path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if crate::engine::embedded::holds_data(data)? {
                    return Err(StoreError::DataWithoutKey {
                        data: data.to_owned(),
                        key: path.to_owned(),
                    });
                }
                crate::engine::embedded::announce_initialising(data)?;
                Self::generate_file(path)
            }
            Err(error) => Err(problem(
                path,
                &format!("{error}. Check the path and its permissions"),
            )),
        }
    }

    /// Public identifier: tells two keys apart and reveals nothing of them.
    #[must_use]
    pub fn id(&self) -> String {
        self.derive(b"gridkeep root key id")
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// True if this process has just made it.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Removes the file of a key that this start has made and that nothing is sealed under; of no other.
    pub(crate) fn discard(self) {
        if self.fresh && fs::remove_file(&self.source).is_ok() {
            // If the removal itself is lost, the next start finds a foreign key and says so.
            let _ = sync_directory_of(&self.source);
        }
    }

    /// Where it comes from.
    pub(crate) fn source(&self) -> &Path {
        &self.source
    }

    /// The key that the keyring is sealed under.
    pub(crate) fn wrapping_key(&self) -> Zeroizing<[u8; 32]> {
        self.derive(b"gridkeep keyring wrapping")
    }

    fn derive(&self, label: &[u8]) -> Zeroizing<[u8; 32]> {
        derive(
            &hkdf::Salt::new(hkdf::HKDF_SHA256, b"gridkeep root").extract(&*self.secret),
            label,
        )
    }

    fn read(path: &Path, forbidden: u32) -> Result<Self, StoreError> {
        // Opened first and judged by its descriptor, so that what is judged is what is read.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
            .open(path)
            .map_err(|error| {
                problem(
                    path,
                    &format!("{error}. Check the path and its permissions"),
                )
            })?;
        let meta = file
            .metadata()
            .map_err(|error| problem(path, &error.to_string()))?;
        if !meta.is_file() {
            return Err(problem(
                path,
                "it is not a regular file. Name the key file itself",
            ));
        }
        if meta.mode() & forbidden != 0 {
            return Err(problem(
                path,
                &format!(
                    "others can read or write it (mode {:04o}). Set its mode to 0600, and consider the key known",
                    meta.mode() & 0o7777
                ),
            ));
        }
        let me = nix::unistd::geteuid().as_raw();
        let owners_alone = meta.mode() & 0o077 == 0;
        if meta.uid() != me && meta.uid() != 0 && !(me == 0 && owners_alone) {
            return Err(problem(
                path,
                &format!(
                    "it belongs to user {}, not to this one ({me}) or root. Change its owner",
                    meta.uid()
                ),
            ));
        }
        let mut text = Zeroizing::new(Vec::with_capacity(256));
        file.take(256)
            .read_to_end(&mut text)
            .map_err(|error| problem(path, &error.to_string()))?;
        let secret = parse(&text).ok_or_else(|| not_a_key(path))?;
        Ok(Self {
            secret,
            source: path.to_owned(),
            fresh: false,
            shares: None,
        })
    }
}

fn parse(text: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let encoded = text.trim_ascii().strip_prefix(HEADER.as_bytes())?;
    let mut secret = Zeroizing::new([0; 32]);
    match URL_SAFE_NO_PAD.decode_slice(encoded, &mut *secret) {
        Ok(32) => Some(secret),
        _ => None,
    }
}

fn not_a_key(path: &Path) -> StoreError {
    let what =
        format!("it is not a root key (one line, {HEADER} and 43 characters). Give the right file");
    problem(path, &what)
}

fn problem(path: &Path, problem: &str) -> StoreError {
    StoreError::RootKey {
        path: path.to_owned(),
        problem: problem.to_owned(),
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| sync_directory_of(path));
    if written.is_err() {
        // Half a key would refuse every later start.
        let _ = fs::remove_file(path);
    }
    written
}

/// Makes the name of a new file durable.
pub(crate) fn sync_directory_of(path: &Path) -> std::io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

struct Length;

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        32
    }
}

/// HKDF-SHA256 (RFC 5869), 32 bytes.
pub(crate) fn derive(prk: &hkdf::Prk, label: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    #[expect(
        clippy::expect_used,
        reason = "expanding fails only beyond 255 hash lengths; one is asked for"
    )]
    prk.expand(&[label], Length)
        .and_then(|okm| okm.fill(&mut *out))
        .expect("32 bytes are within HKDF's limit");
    out
}
