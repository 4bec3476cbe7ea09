//! Capabilities: what the `scope` claim of a token allows, in the WLCG and in the SciTokens spelling.
//! Owns parsing and the decision "does this list of scopes allow this operation on this path of the issuer's area";
//! refuses to know base paths, groups and who may issue what. A new capability is a variant of [`Capability`], its name
//! in `parse` and its rights in `decide`.

mod decide;
mod operation;
mod path;

use std::fmt;

use thiserror::Error;

pub use decide::Decision;
pub(crate) use decide::{covered_directory, decide};
pub use operation::{Object, Operation, UnknownOperation};
pub use path::{AreaPath, PathError};

/// What begins the long form of SciTokens scopes.
const SCITOKENS_URI: &str = "https://scitokens.org/v1/authz/";

/// A right on data (WLCG profile 1.3, table of storage capabilities).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StorageRight {
    /// Read data that is online.
    Read,
    /// Make new files and directories, without replacing or deleting.
    Create,
    /// Create, and also overwrite, delete, rename.
    Modify,
    /// Bring data online; does not include reading (profile 1.2 and later).
    Stage,
    /// Ask where data is.
    Poll,
}

/// A right on jobs (WLCG profile 1.3, table of compute capabilities).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ComputeRight {
    /// Query jobs.
    Read,
    /// Change jobs.
    Modify,
    /// Submit jobs.
    Create,
    /// Remove jobs.
    Cancel,
}

impl StorageRight {
    const ALL: [Self; 5] = [
        Self::Read,
        Self::Create,
        Self::Modify,
        Self::Stage,
        Self::Poll,
    ];

    /// The scope name in the WLCG profile.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "storage.read",
            Self::Create => "storage.create",
            Self::Modify => "storage.modify",
            Self::Stage => "storage.stage",
            Self::Poll => "storage.poll",
        }
    }
}

impl ComputeRight {
    const ALL: [Self; 4] = [Self::Read, Self::Modify, Self::Create, Self::Cancel];

    /// The scope name in the WLCG profile.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "compute.read",
            Self::Modify => "compute.modify",
            Self::Create => "compute.create",
            Self::Cancel => "compute.cancel",
        }
    }
}

/// One thing a scope stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capability {
    /// A right on the data below a path of the issuer's area.
    Storage {
        /// Which right.
        right: StorageRight,
        /// Where.
        path: AreaPath,
    },
    /// A right on jobs.
    Compute(ComputeRight),
    /// `host.auth`: the token is meant to be judged by its subject.
    HostAuth,
}

/// The vocabulary that a token's scopes are written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Language {
    /// `storage.*`, `compute.*`, `host.auth`.
    #[default]
    Wlcg,
    /// `read`, `write`, `queue`, `condor:/…`, also as URIs.
    SciTokens,
}

impl Language {
    /// The scope that grants `right`, for messages.
    pub(crate) fn storage(self, right: StorageRight) -> Option<&'static str> {
        match (self, right) {
            (Self::Wlcg, right) => Some(right.name()),
            (Self::SciTokens, StorageRight::Read) => Some("read"),
            (Self::SciTokens, StorageRight::Modify) => Some("write"),
            (Self::SciTokens, _) => None,
        }
    }

    /// As [`Language::storage`], for jobs.
    pub(crate) fn compute(self, right: ComputeRight) -> &'static str {
        match (self, right) {
            (Self::Wlcg, right) => right.name(),
            (Self::SciTokens, ComputeRight::Read) => "condor:/READ",
            (Self::SciTokens, _) => "condor:/WRITE",
        }
    }
}

/// One scope and what it means here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// As written.
    pub text: String,
    /// Empty for a scope that grants nothing here.
    pub capabilities: Vec<Capability>,
    names_capability: bool,
}

/// Why a scope list makes the whole token unacceptable.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ScopeError {
    /// Not text as OAuth has it.
    #[error("the scope list has the character {0:?}, which RFC 6749 section 3.3 does not allow")]
    Character(char),
    /// A capability that needs a path has none.
    #[error("the scope \"{}\" needs a path, such as /", .0.escape_debug())]
    NoPath(String),
    /// Its path is not acceptable.
    #[error("the path of the scope \"{}\" is not acceptable: {problem}", .scope.escape_debug())]
    Path {
        /// As written.
        scope: String,
        /// What is wrong.
        problem: PathError,
    },
}

/// The parsed `scope` claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes {
    language: Language,
    list: Vec<Scope>,
}

impl Scopes {
    /// Reads a space-separated list; several spaces count as one.
    ///
    /// # Errors
    /// [`ScopeError`]: the whole token must then be refused (WLCG profile 1.3, section on path usage).
    pub fn parse(text: &str, language: Language) -> Result<Self, ScopeError> {
        if let Some(odd) = text
            .chars()
            .find(|c| !matches!(c, ' ' | '!' | '#'..='[' | ']'..='~'))
        {
            return Err(ScopeError::Character(odd));
        }
        let scopes = text.split(' ').filter(|scope| !scope.is_empty());
        let list = match language {
            Language::Wlcg => scopes.map(wlcg).collect::<Result<_, _>>()?,
            Language::SciTokens => scopes.map(scitokens).collect::<Result<_, _>>()?,
        };
        Ok(Self { language, list })
    }

    /// The vocabulary they are written in.
    #[must_use]
    pub fn language(&self) -> Language {
        self.language
    }

    /// The scopes, in the token's order.
    #[must_use]
    pub fn list(&self) -> &[Scope] {
        &self.list
    }

    /// Whether any storage or compute capability is named, relevant or not: then groups do not count (WLCG profile 1.3,
    /// section on interpreting both). A compute capability with a path grants nothing but is counted, so that a restriction
    /// we cannot honour never ends in wider rights.
    #[must_use]
    pub fn names_capability(&self) -> bool {
        self.list.iter().any(|scope| scope.names_capability)
    }

    /// Whether `host.auth` is there.
    #[must_use]
    pub fn host_auth(&self) -> bool {
        self.list
            .iter()
            .any(|scope| scope.capabilities.contains(&Capability::HostAuth))
    }

    /// Whether these scopes allow `operation` on `path`, a path of the issuer's area without base path; job operations
    /// ignore the path.
    ///
    /// # Errors
    /// [`PathError`] when `path`, or the target of a rename, is not acceptable.
    pub fn decide(&self, operation: &Operation, path: &str) -> Result<Decision, PathError> {
        if operation.on_jobs() {
            return Ok(decide(self, operation, &AreaPath::root(), None));
        }
        let path = AreaPath::parse(path)?;
        let target = operation.rename_target().map(AreaPath::parse).transpose()?;
        Ok(decide(self, operation, &path, target.as_ref()))
    }

    /// HTCondor's authorization levels by this token (`READ`, `WRITE`, …), as scitokens-cpp and HTCondor derive them:
    /// `condor:/X` gives X; in WLCG tokens `compute.read` gives READ, and `compute.create`, `compute.modify` and
    /// `compute.cancel` give WRITE only all together; WRITE includes READ.
    #[must_use]
    pub fn condor_levels(&self) -> Vec<String> {
        let mut levels: Vec<String> = Vec::new();
        let mut add = |level: &str| {
            if !level.is_empty() && !levels.iter().any(|known| known == level) {
                levels.push(level.to_owned());
            }
        };
        // SciTokens know no such names, and a path would be a restriction that HTCondor does not see.
        let has = |right: ComputeRight| {
            let means =
                |scope: &Scope| !scope.capabilities.is_empty() && scope.text == right.name();
            self.list.iter().any(means)
        };
        for scope in &self.list {
            if let Some(level) = scope.text.strip_prefix("condor:/") {
                add(level);
            }
        }
        if has(ComputeRight::Create) && has(ComputeRight::Modify) && has(ComputeRight::Cancel) {
            add("WRITE");
        }
        if has(ComputeRight::Read) {
            add("READ");
        }
        if levels.iter().any(|level| level == "WRITE")
            && !levels.iter().any(|level| level == "READ")
        {
            levels.push("READ".to_owned());
        }
        levels
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, scope) in self.list.iter().enumerate() {
            let gap = if at == 0 { "" } else { " " };
            write!(f, "{gap}{}", scope.text)?;
        }
        Ok(())
    }
}

fn with_path(scope: &str, path: Option<&str>) -> Result<AreaPath, ScopeError> {
    let Some(path) = path else {
        return Err(ScopeError::NoPath(scope.to_owned()));
    };
    AreaPath::parse(path).map_err(|problem| ScopeError::Path {
        scope: scope.to_owned(),
        problem,
    })
}

fn split(scope: &str) -> (&str, Option<&str>) {
    match scope.split_once(':') {
        Some((name, path)) => (name, Some(path)),
        None => (scope, None),
    }
}

fn wlcg(scope: &str) -> Result<Scope, ScopeError> {
    let (name, path) = split(scope);
    let mut names_capability = false;
    let mut capabilities = Vec::new();
    if name.starts_with("storage.") {
        let path = with_path(scope, path)?;
        if let Some(right) = StorageRight::ALL
            .into_iter()
            .find(|right| right.name() == name)
        {
            names_capability = true;
            capabilities.push(Capability::Storage { right, path });
        }
    } else if let Some(right) = ComputeRight::ALL
        .into_iter()
        .find(|right| right.name() == name)
    {
        names_capability = true;
        if path.is_none() {
            capabilities.push(Capability::Compute(right));
        }
    } else if scope == "host.auth" {
        capabilities.push(Capability::HostAuth);
    }
    Ok(Scope {
        text: scope.to_owned(),
        capabilities,
        names_capability,
    })
}

fn scitokens(scope: &str) -> Result<Scope, ScopeError> {
    let (name, path) = split(scope.strip_prefix(SCITOKENS_URI).unwrap_or(scope));
    let compute =
        |rights: &[ComputeRight]| rights.iter().copied().map(Capability::Compute).collect();
    let capabilities = match (name, path) {
        ("read" | "write", path) => {
            let right = if name == "read" {
                StorageRight::Read
            } else {
                StorageRight::Modify
            };
            let path = with_path(scope, path)?;
            vec![Capability::Storage { right, path }]
        }
        ("queue", None) => compute(&[ComputeRight::Create]),
        ("condor", Some("/READ")) => compute(&[ComputeRight::Read]),
        ("condor", Some("/WRITE")) => compute(&ComputeRight::ALL),
        _ => Vec::new(),
    };
    Ok(Scope {
        text: scope.to_owned(),
        names_capability: !capabilities.is_empty(),
        capabilities,
    })
}
