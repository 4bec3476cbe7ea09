//! Which files make up the configuration, and their texts.
//!
//! Knows names and bytes, not YAML. The texts can be kept and loaded again later, which is how a node that finds
//! the configuration in the store comes by it.

use super::finding::{Finding, Findings, Origin, Refusal, Severity};
use super::yaml::MOST_BYTES;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// More files than this are not a configuration.
const MOST_FILES: usize = 1_000;
/// The largest sum of all files, in bytes.
const MOST_BYTES_TOGETHER: usize = 16 << 20;

/// One file's text.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    /// Its path, for messages.
    pub path: Arc<Path>,
    /// What it holds; it may hold secrets.
    pub text: Zeroizing<String>,
}

/// The texts of all files, in the order they are merged.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// The directory that holds `config.d`: where the original has `hostcert.pem` and `hostkey.pem`.
    pub base: PathBuf,
    /// The files.
    pub files: Vec<Source>,
    /// The directories that were searched for them.
    pub listed: Vec<PathBuf>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources")
            .field("base", &self.base)
            .field(
                "files",
                &self.files.iter().map(|file| &file.path).collect::<Vec<_>>(),
            )
            .finish_non_exhaustive()
    }
}

const OURS: &str = "gridkeep/config.d";
const ORIGINALS: &str = "htvault-config/config.d";

/// Where the configuration is looked for when no path is given: ours if it exists, else the original's. Ours also where it cannot be
/// looked for and the original's is not there.
pub fn default_paths(etc: &Path) -> Vec<PathBuf> {
    let (ours, originals) = (etc.join(OURS), etc.join(ORIGINALS));
    let hidden = || match fs::metadata(&ours) {
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied && !originals.is_dir(),
        Ok(_) => false,
    };
    if ours.is_dir() || hidden() {
        vec![ours]
    } else {
        vec![originals]
    }
}

/// Reads the files of the paths in the order given; of a directory, those ending in `.yaml`, sorted by the bytes of
/// their names. `None` when something could not be read, which is then among the findings as fatal: a configuration
/// with a hole could, for example, bring back what a missing file deletes.
pub fn read(paths: &[PathBuf], findings: &mut Findings) -> Option<Sources> {
    let mut files = Vec::new();
    let mut complete = true;
    for path in paths {
        match list(path, findings) {
            Ok(found) => files.extend(found),
            Err(error) => {
                complete = false;
                findings.push(unreadable(path, &error));
            }
        }
    }
    let mut sources = Sources {
        base: paths.first().map(|path| base_of(path)).unwrap_or_default(),
        files: Vec::new(),
        listed: paths.iter().filter(|path| path.is_dir()).cloned().collect(),
    };
    let mut together = 0;
    for path in &files {
        match text_of(path) {
            Ok(text) => {
                together += text.len();
                sources.files.push(Source {
                    path: Arc::from(path.as_path()),
                    text,
                });
            }
            Err(finding) => {
                complete = false;
                findings.push(*finding);
            }
        }
        if together > MOST_BYTES_TOGETHER {
            let what = format!("The files together hold more than {MOST_BYTES_TOGETHER} bytes.");
            findings.push(Finding::new(
                Severity::Fatal,
                &Origin::whole_file(path),
                "",
                what,
                "No configuration needs as much.",
            ));
            return None;
        }
    }
    complete.then_some(sources)
}

fn unreadable(path: &Path, error: &io::Error) -> Finding {
    let means = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "Nothing of the configuration is used until the path can be read; run this as root (sudo), or as the user that runs the server."
        }
        _ => "Nothing of the configuration is used until the path can be read.",
    };
    let mut what = format!("It cannot be read: {error}.");
    // What is taken where nothing of ours is there.
    let etc = path.ends_with(ORIGINALS).then(|| path.ancestors().nth(2));
    if let Some(ours) = etc.flatten().map(|etc| etc.join(OURS))
        && error.kind() == io::ErrorKind::NotFound
        && !ours.is_dir()
    {
        what += &format!(
            " Nor is there {}, the first place that is tried.",
            ours.display()
        );
    }
    Finding::new(Severity::Fatal, &Origin::whole_file(path), "", what, means)
}

fn list(path: &Path, findings: &mut Findings) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut names: Vec<OsString> = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let bytes = name.as_bytes();
        if bytes.ends_with(b".yaml") {
            if path.join(&name).is_dir() {
                let place = Origin::whole_file(&path.join(&name));
                findings.push(Finding::new(
                    Severity::Warning,
                    &place,
                    "",
                    "This is a directory.",
                    "It is not searched.",
                ));
            } else {
                names.push(name);
            }
        } else if bytes.ends_with(b".yml") {
            let place = Origin::whole_file(&path.join(&name));
            let means = "It is not read; only files ending in `.yaml` are. Rename it.";
            findings.push(Finding::new(
                Severity::Warning,
                &place,
                "",
                "The file name ends in `.yml`.",
                means,
            ));
        }
        if names.len() > MOST_FILES {
            return Err(io::Error::other(format!(
                "it holds more than {MOST_FILES} files"
            )));
        }
    }
    // `OsString` compares by bytes.
    names.sort();
    if names.is_empty() {
        let means = "Without files there is no issuer and nobody can log in.";
        let what = "The directory holds no file ending in `.yaml`.";
        findings.push(Finding::new(
            Severity::Warning,
            &Origin::whole_file(path),
            "",
            what,
            means,
        ));
    }
    Ok(names.into_iter().map(|name| path.join(name)).collect())
}

fn text_of(path: &Path) -> Result<Zeroizing<String>, Refusal> {
    let fatal = |origin: Origin, what: String, means: &str| {
        Box::new(Finding::new(Severity::Fatal, &origin, "", what, means))
    };
    let whole = || Origin::whole_file(path);
    let read = || -> io::Result<Zeroizing<Vec<u8>>> {
        // A pipe or a device could block or never end.
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let mut bytes = Zeroizing::new(Vec::new());
        File::open(path)?
            .take(MOST_BYTES as u64 + 1)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| Box::new(unreadable(path, &error)))?;
    if bytes.len() > MOST_BYTES {
        return Err(fatal(
            whole(),
            format!("The file has more than {MOST_BYTES} bytes."),
            "No configuration needs as much.",
        ));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(error) => {
            let before = &bytes[..error.valid_up_to()];
            let line = 1 + before.iter().filter(|b| **b == b'\n').count();
            let column = 1 + before.iter().rev().take_while(|b| **b != b'\n').count();
            let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            let origin = Origin::new(&Arc::from(path), number(line), number(column));
            Err(fatal(
                origin,
                "The bytes from here on are not UTF-8.".to_owned(),
                "Save the file in UTF-8.",
            ))
        }
    }
}

/// The directory above `config.d`, or above any directory whose name ends in `.d`; else the directory itself.
fn base_of(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let directory = if path.is_dir() {
        absolute.as_path()
    } else {
        absolute.parent().unwrap_or(Path::new("/"))
    };
    let collected = directory
        .file_name()
        .is_some_and(|name| name.as_bytes().ends_with(b".d"));
    if collected {
        directory.parent().unwrap_or(directory)
    } else {
        directory
    }
    .to_path_buf()
}
