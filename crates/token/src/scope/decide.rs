//! Matching an operation against capabilities (WLCG profile 1.3, sections on storage and compute capabilities).

use super::{AreaPath, Capability, ComputeRight, Object, Operation, Scopes, StorageRight};

/// Whether something is allowed, and the reason to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The answer.
    pub allowed: bool,
    /// A sentence that names the scope, group or rule that decided.
    pub reason: String,
}

impl Decision {
    pub(crate) fn allow(reason: impl Into<String>) -> Self {
        Self {
            allowed: true,
            reason: reason.into(),
        }
    }

    pub(crate) fn deny(reason: impl Into<String>) -> Self {
        Self {
            allowed: false,
            reason: reason.into(),
        }
    }
}

use StorageRight::{Create, Modify, Poll, Read, Stage};

/// Decides by `scopes` alone. Rights add up: each half of a rename may come from another scope.
pub(crate) fn decide(
    scopes: &Scopes,
    operation: &Operation,
    path: &AreaPath,
    target: Option<&AreaPath>,
) -> Decision {
    if let Some(right) = compute_right(operation) {
        return match find(scopes, |c| *c == Capability::Compute(right)) {
            Some(scope) => Decision::allow(format!("{operation} is allowed by the scope {scope}")),
            None => Decision::deny(format!(
                "{operation} needs the scope {}, which the token does not have",
                scopes.language().compute(right)
            )),
        };
    }
    let needs = needs(operation);
    let Some(first) = grants(scopes, &needs, path) else {
        return Decision::deny(refusal(scopes, operation, &needs, path));
    };
    let Operation::Rename {
        object,
        target_exists,
        ..
    } = operation
    else {
        return Decision::allow(format!(
            "{operation} of {path} is allowed by the scope {first}"
        ));
    };
    let Some(target) = target else {
        return Decision::deny("a rename needs a new path".to_owned());
    };
    let rights: &[StorageRight] = if *target_exists || *object == Object::Directory {
        &[Modify]
    } else {
        &[Create, Modify]
    };
    let needs = Needs {
        rights,
        object: *object,
        on_the_way: false,
    };
    match grants(scopes, &needs, target) {
        Some(second) => Decision::allow(format!(
            "rename of {path} is allowed by the scope {first}, to {target} by {second}"
        )),
        None => Decision::deny(refusal(scopes, operation, &needs, target)),
    }
}

/// What must cover a path: one of these rights.
struct Needs<'a> {
    rights: &'a [StorageRight],
    object: Object,
    /// Also satisfied where the path leads towards a covered one.
    on_the_way: bool,
}

fn needs(operation: &Operation) -> Needs<'static> {
    let (rights, object): (&'static [StorageRight], Object) = match operation {
        Operation::Read => (&[Read], Object::File),
        Operation::Stat(object) => (&[Read, Create, Modify, Stage], *object),
        Operation::Create => (&[Create, Modify], Object::File),
        Operation::MakeDirectory { .. } => (&[Create, Modify], Object::Directory),
        Operation::Overwrite => (&[Modify], Object::File),
        Operation::Delete(object) => (&[Modify], *object),
        Operation::Rename {
            object: Object::File,
            ..
        } => (&[Create, Modify], Object::File),
        Operation::Rename {
            object: Object::Directory,
            ..
        } => (&[Modify], Object::Directory),
        Operation::Stage | Operation::CancelStage | Operation::Evict | Operation::Pin => {
            (&[Stage], Object::File)
        }
        Operation::Locality => (&[Poll, Stage, Read, Create, Modify], Object::File),
        // The profile leaves listing open; only a service's own configuration can allow it.
        Operation::List => (&[], Object::Directory),
        Operation::QueryJobs
        | Operation::SubmitJobs
        | Operation::ModifyJobs
        | Operation::CancelJobs => (&[], Object::File),
    };
    let on_the_way = *operation == Operation::MakeDirectory { exists: false };
    Needs {
        rights,
        object,
        on_the_way,
    }
}

fn compute_right(operation: &Operation) -> Option<ComputeRight> {
    match operation {
        Operation::QueryJobs => Some(ComputeRight::Read),
        Operation::SubmitJobs => Some(ComputeRight::Create),
        Operation::ModifyJobs => Some(ComputeRight::Modify),
        Operation::CancelJobs => Some(ComputeRight::Cancel),
        _ => None,
    }
}

fn grants<'a>(scopes: &'a Scopes, needs: &Needs<'_>, target: &AreaPath) -> Option<&'a str> {
    find(scopes, |capability| match capability {
        Capability::Storage { right, path } => {
            let leads_there = needs.on_the_way && target.is_prefix_of(path);
            needs.rights.contains(right) && (covers(path, target, needs.object) || leads_there)
        }
        Capability::Compute(_) | Capability::HostAuth => false,
    })
}

/// Whether one of `rights` covers the directory `path`; for services that map listing to a right.
pub(crate) fn covered_directory<'a>(
    scopes: &'a Scopes,
    rights: &[StorageRight],
    path: &AreaPath,
) -> Option<&'a str> {
    let needs = Needs {
        rights,
        object: Object::Directory,
        on_the_way: false,
    };
    grants(scopes, &needs, path)
}

fn covers(path: &AreaPath, target: &AreaPath, object: Object) -> bool {
    if !path.is_prefix_of(target) {
        return false;
    }
    let same = path.components().len() == target.components().len();
    !(same && path.directory_only() && object == Object::File)
}

fn find(scopes: &Scopes, wanted: impl Fn(&Capability) -> bool) -> Option<&str> {
    let scope = scopes
        .list()
        .iter()
        .find(|scope| scope.capabilities.iter().any(&wanted))?;
    Some(scope.text.as_str())
}

fn refusal(scopes: &Scopes, operation: &Operation, needs: &Needs<'_>, path: &AreaPath) -> String {
    let language = scopes.language();
    let rights = needs.rights.iter();
    let names: Vec<&str> = rights
        .filter_map(|right| language.storage(*right))
        .collect();
    if names.is_empty() {
        return format!(
            "{operation} is granted by no scope; only a service's own configuration can allow it"
        );
    }
    format!(
        "{operation} on {path} needs {} on a path that covers it, which the token does not have",
        names.join(" or ")
    )
}
