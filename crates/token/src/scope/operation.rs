//! What somebody may want to do, in the words of `gridkeep verify --operation`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    /// A file.
    File,
    /// A directory.
    Directory,
}

/// An operation to authorize.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Read a file that is online.
    Read,
    /// Size, checksum, time.
    Stat(Object),
    /// List a directory.
    List,
    /// Write a file that does not exist yet.
    Create,
    /// Make a directory.
    MakeDirectory {
        /// Whether it is there already; then nothing new is made on the way to a covered path.
        exists: bool,
    },
    /// Replace or truncate a file.
    Overwrite,
    /// Delete.
    Delete(Object),
    /// Rename within the issuer's area.
    Rename {
        /// What is renamed.
        object: Object,
        /// Its new path.
        to: String,
        /// Whether something stands there.
        target_exists: bool,
    },
    /// Ask for data to be brought online.
    Stage,
    /// Ask whether data is online.
    Locality,
    /// Abort a stage request.
    CancelStage,
    /// Release what was staged.
    Evict,
    /// Pin or unpin what was staged.
    Pin,
    /// Query jobs.
    QueryJobs,
    /// Submit jobs.
    SubmitJobs,
    /// Change jobs.
    ModifyJobs,
    /// Remove jobs.
    CancelJobs,
}

const SIMPLE: [(&str, Operation); 18] = [
    ("read", Operation::Read),
    ("stat", Operation::Stat(Object::File)),
    ("stat-directory", Operation::Stat(Object::Directory)),
    ("list", Operation::List),
    ("create", Operation::Create),
    ("mkdir", Operation::MakeDirectory { exists: false }),
    ("overwrite", Operation::Overwrite),
    ("delete", Operation::Delete(Object::File)),
    ("delete-directory", Operation::Delete(Object::Directory)),
    ("stage", Operation::Stage),
    ("poll", Operation::Locality),
    ("cancel-stage", Operation::CancelStage),
    ("evict", Operation::Evict),
    ("pin", Operation::Pin),
    ("query-jobs", Operation::QueryJobs),
    ("submit-jobs", Operation::SubmitJobs),
    ("modify-jobs", Operation::ModifyJobs),
    ("cancel-jobs", Operation::CancelJobs),
];

const RENAMES: [(&str, Object, bool); 4] = [
    ("rename:", Object::File, false),
    ("rename-over:", Object::File, true),
    ("rename-directory:", Object::Directory, false),
    ("rename-directory-over:", Object::Directory, true),
];

impl Operation {
    /// The words that [`FromStr`] understands, for usage texts.
    #[must_use]
    pub fn words() -> Vec<String> {
        let simple = SIMPLE.iter().map(|(word, _)| (*word).to_owned());
        simple
            .chain(RENAMES.iter().map(|(word, ..)| format!("{word}<new path>")))
            .collect()
    }

    /// Whether it is about jobs and so has no path.
    #[must_use]
    pub fn on_jobs(&self) -> bool {
        matches!(
            self,
            Self::QueryJobs | Self::SubmitJobs | Self::ModifyJobs | Self::CancelJobs
        )
    }

    /// The new path of a rename.
    #[must_use]
    pub fn rename_target(&self) -> Option<&str> {
        match self {
            Self::Rename { to, .. } => Some(to),
            _ => None,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rename {
                object,
                to,
                target_exists,
            } => {
                let word = RENAMES
                    .iter()
                    .find(|(_, o, over)| o == object && over == target_exists);
                write!(f, "{}{to}", word.map_or("rename:", |(word, ..)| word))
            }
            Self::MakeDirectory { .. } => f.write_str("mkdir"),
            simple => {
                let word = SIMPLE.iter().find(|(_, operation)| operation == simple);
                f.write_str(word.map_or("?", |(word, _)| word))
            }
        }
    }
}

/// The text names no operation.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("\"{}\" is no operation; say one of {}", .0.escape_debug(), Operation::words().join(", "))]
pub struct UnknownOperation(pub String);

impl FromStr for Operation {
    type Err = UnknownOperation;

    fn from_str(text: &str) -> Result<Self, UnknownOperation> {
        if let Some((_, operation)) = SIMPLE.iter().find(|(word, _)| *word == text) {
            return Ok(operation.clone());
        }
        RENAMES
            .iter()
            .find_map(|(word, object, target_exists)| {
                let to = text
                    .strip_prefix(word)
                    .filter(|to| !to.is_empty())?
                    .to_owned();
                let (object, target_exists) = (*object, *target_exists);
                Some(Self::Rename {
                    object,
                    to,
                    target_exists,
                })
            })
            .ok_or_else(|| UnknownOperation(text.to_owned()))
    }
}
