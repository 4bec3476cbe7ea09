//! The user that the server runs as, as its process or else the owner of its data tells, and which files that user may read.
//!
//! Who examines a host is mostly root, who may read everything. This judges as the kernel does for another user: by owner, access
//! control list, groups, others, and the right to pass through each directory above. Opens and changes nothing.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Component, Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Gid, Group, Uid, User};

use super::finding::{Finding, Findings, Origin, Severity};
use super::model::Config;
use super::source::Sources;

/// The name of the operators' socket in the run directory.
pub const OPERATORS_SOCKET: &str = "operator.sock";
/// Whom the unit of the manual runs the server as; asked for where there is no data yet.
const USUAL: &str = "gridkeep";
/// The directory of htvault-config, whose own user needs what is in it.
const ORIGINALS: &str = "htvault-config";
/// More links than this on one way lead in a circle; the kernel's number.
const MOST_LINKS: usize = 40;
const READ: u32 = 4;
const PASS: u32 = 1;

/// Whom the server runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunsAs {
    /// Root, who may read everything.
    Root,
    /// Somebody else.
    Other(ServiceUser),
    /// Nobody can tell: there is neither a server nor data, or they cannot be looked at.
    Unknown,
}

/// A user who is not root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceUser {
    /// The number.
    pub uid: u32,
    /// The name, or the number where the host knows none.
    pub name: String,
    group: u32,
    groups: Vec<u32>,
}

/// What the user has to be able to do with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need<'a> {
    /// Read it. Below the directory that is named it is ours, so that root's files there may be given to the user's group; elsewhere others
    /// may need it as it is.
    Read(Option<&'a Path>),
    /// The same of a file that nobody else needs, wherever it is.
    Own(Option<&'a Path>),
    /// Open what lies in this directory.
    Pass,
    /// The same, and see what lies there; ours as with `Read`.
    List(Option<&'a Path>),
}

/// A file that the service's user may not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The key that names it; empty for a file of the configuration itself.
    pub key: String,
    /// Where it is named.
    pub origin: Origin,
    /// What is wrong, a sentence.
    pub what: String,
    /// What to type.
    pub remedy: String,
}

/// The process that answers in this run directory; `None` if none does, or the system does not show it.
pub fn process_of(directory: &Path) -> Option<i32> {
    let stream = UnixStream::connect(directory.join(OPERATORS_SOCKET)).ok()?;
    let peer = getsockopt(&stream, PeerCredentials).ok()?;
    Some(peer.pid()).filter(|pid| *pid > 0)
}

impl RunsAs {
    /// That of the server that answers on the operators' socket; while none does, who owns the data directory, or what is in it; before
    /// the first start the user that the unit of the manual names.
    pub fn of(config: &Config) -> Self {
        let run_directory = &config.gridkeep.run_directory.value;
        let running = process_of(run_directory)
            .and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok())
            .and_then(|status| ServiceUser::of_process(&status));
        if let Some(user) = running {
            return match user.uid {
                0 => RunsAs::Root,
                _ => RunsAs::Other(user),
            };
        }
        let data = &config.gridkeep.data.value;
        let places = [data.clone(), data.join("store"), run_directory.clone()];
        let found: Vec<Metadata> = places
            .iter()
            .filter_map(|it| fs::metadata(it).ok())
            .collect();
        let usual = || {
            let user = User::from_name(USUAL).ok().flatten()?;
            (!user.uid.is_root()).then(|| ServiceUser::known(user.uid.as_raw(), user.gid.as_raw()))
        };
        match found.iter().find(|found| found.uid() != 0) {
            Some(found) => RunsAs::Other(ServiceUser::known(found.uid(), found.gid())),
            None if found.is_empty() => usual().map_or(RunsAs::Unknown, RunsAs::Other),
            None => RunsAs::Root,
        }
    }

    /// The user, where there is one whose rights count.
    pub fn user(&self) -> Option<&ServiceUser> {
        match self {
            RunsAs::Other(user) => Some(user),
            RunsAs::Root | RunsAs::Unknown => None,
        }
    }
}

impl ServiceUser {
    /// With the groups that the host says; with `group` alone where it knows no such user.
    fn known(uid: u32, group: u32) -> Self {
        let Some(user) = User::from_uid(Uid::from_raw(uid)).ok().flatten() else {
            return Self {
                uid,
                name: uid.to_string(),
                group,
                groups: vec![group],
            };
        };
        let groups = std::ffi::CString::new(user.name.as_str())
            .ok()
            .and_then(|name| nix::unistd::getgrouplist(&name, user.gid).ok());
        Self {
            uid,
            name: user.name,
            group: user.gid.as_raw(),
            groups: groups.map_or_else(
                || vec![user.gid.as_raw()],
                |groups| groups.into_iter().map(Gid::as_raw).collect(),
            ),
        }
    }

    /// From `/proc/PID/status` (proc(5)), which knows what a unit added to the user's groups, too.
    fn of_process(status: &str) -> Option<Self> {
        let numbers = |name: &str| -> Option<Vec<u32>> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_ascii_whitespace()
                .map(|number| number.parse().ok())
                .collect()
        };
        // Real, effective, saved, and the one that counts for files.
        let (uid, group) = (*numbers("Uid:")?.get(3)?, *numbers("Gid:")?.get(3)?);
        let mut groups = vec![group];
        groups.extend(numbers("Groups:")?);
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        Some(Self {
            uid,
            name: user.map_or_else(|| uid.to_string(), |user| user.name),
            group,
            groups,
        })
    }

    /// Why the user may not do with the file at `path` what the server needs to, and what to type; `None` if that is allowed, or when it cannot be
    /// seen.
    /// Takes nothing from others: they keep their rights, but for a file that must be the user's `Own`.
    pub fn refused(&self, path: &Path, need: Need<'_>) -> Option<(String, String)> {
        let (name, shown) = (&self.name, path.display());
        let ours = match need {
            Need::Read(ours) | Need::Own(ours) | Need::List(ours) => ours,
            Need::Pass => None,
        };
        let real = match self.way(path)? {
            Way::Through(real) => real,
            Way::Closed(directory, found) => {
                return Some((
                    format!(
                        "The server's user {name} cannot reach {shown}: {} ({}) does not let it through.",
                        directory.display(),
                        described(&found)
                    ),
                    self.remedy(&directory, &found, PASS, ours),
                ));
            }
        };
        let found = fs::metadata(&real).ok()?;
        let (wanted, verb) = match need {
            Need::List(_) => (READ | PASS, "look into"),
            _ if found.is_dir() => (PASS, "look into"),
            _ => (READ, "read"),
        };
        if self.rights(&real, &found) & wanted == wanted {
            return None;
        }
        let what = format!(
            "The server's user {name} cannot {verb} {shown} ({}).",
            described(&found)
        );
        let remedy = match need {
            Need::Own(_) => format!(
                "chown {name}:{} {shown} && chmod 0600 {shown}",
                group_name(self.group)
            ),
            _ => self.remedy(&real, &found, wanted, ours),
        };
        Some((what, remedy))
    }

    /// Goes to `path` as the kernel does: through each directory, and through those on the way to where a link leads. `None` when that
    /// cannot be seen.
    fn way(&self, path: &Path) -> Option<Way> {
        let mut ahead: Vec<OsString> = Vec::new();
        let put_ahead = |ahead: &mut Vec<OsString>, path: &Path| {
            let parts = path.components().rev();
            ahead.extend(parts.filter_map(|part| match part {
                Component::Normal(name) => Some(name.to_owned()),
                Component::ParentDir => Some("..".into()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
            }));
        };
        put_ahead(&mut ahead, &std::path::absolute(path).ok()?);
        let (mut here, mut links) = (PathBuf::from("/"), 0);
        while let Some(name) = ahead.pop() {
            let found = fs::metadata(&here).ok()?;
            if self.rights(&here, &found) & PASS == 0 {
                return Some(Way::Closed(here, found));
            }
            if name == ".." {
                here.pop();
                continue;
            }
            let next = here.join(name);
            if !fs::symlink_metadata(&next).ok()?.is_symlink() {
                here = next;
                continue;
            }
            links += 1;
            if links > MOST_LINKS {
                return None;
            }
            let target = fs::read_link(&next).ok()?;
            if target.is_absolute() {
                here = PathBuf::from("/");
            }
            put_ahead(&mut ahead, &target);
        }
        Some(Way::Through(here))
    }

    /// What gives the user the rights `wanted`, and takes none from anybody else.
    fn remedy(&self, path: &Path, found: &Metadata, wanted: u32, ours: Option<&Path>) -> String {
        let shown = path.display();
        let letters: String = [(READ, 'r'), (PASS, 'x')]
            .into_iter()
            .filter_map(|(right, letter)| (wanted & right != 0).then_some(letter))
            .collect();
        if found.uid() == self.uid {
            return format!("chmod u+{letters} {shown}");
        }
        let is_ours = ours
            .and_then(|ours| fs::canonicalize(ours).ok())
            .is_some_and(|ours| path.starts_with(ours));
        if !is_ours || (found.uid(), found.gid()) != (0, 0) || acl(path).is_some() {
            return format!("setfacl -m u:{}:{letters} {shown}", self.name);
        }
        let group = group_name(self.group);
        if found.is_dir() {
            format!("chgrp {group} {shown} && chmod g+{letters} {shown}")
        } else {
            format!("chown root:{group} {shown} && chmod 0640 {shown}")
        }
    }

    /// What the user may do with a file: bits as in the last digit of a mode.
    fn rights(&self, path: &Path, found: &Metadata) -> u32 {
        if found.uid() == self.uid {
            return found.mode() >> 6 & 7;
        }
        match acl(path) {
            Some(list) => self.listed(&list, found.gid()),
            None if self.groups.contains(&found.gid()) => found.mode() >> 3 & 7,
            None => found.mode() & 7,
        }
    }

    /// What an access control list, as the kernel stores it (acl(5), `posix_acl_xattr.h`), gives the user. The file is of another user and of
    /// the group `owner`.
    fn listed(&self, list: &[u8], owner: u32) -> u32 {
        const NAMED_USER: u16 = 0x02;
        const OWNING_GROUP: u16 = 0x04;
        const NAMED_GROUP: u16 = 0x08;
        const MASK: u16 = 0x10;
        const OTHERS: u16 = 0x20;
        let entries: Vec<(u16, u32, u32)> = list
            .get(4..)
            .unwrap_or_default()
            .chunks_exact(8)
            .filter_map(|entry| {
                let (tag, rest) = entry.split_first_chunk::<2>()?;
                let (rights, id) = rest.split_first_chunk::<2>()?;
                Some((
                    u16::from_le_bytes(*tag),
                    u32::from(u16::from_le_bytes(*rights)),
                    u32::from_le_bytes(id.try_into().ok()?),
                ))
            })
            .collect();
        let of = |wanted: u16| {
            entries
                .iter()
                .find(|(tag, ..)| *tag == wanted)
                .map(|it| it.1)
        };
        let mask = of(MASK).unwrap_or(7);
        let named = entries
            .iter()
            .find(|(tag, _, id)| *tag == NAMED_USER && *id == self.uid);
        if let Some((_, rights, _)) = named {
            return rights & mask;
        }
        let of_groups = entries.iter().filter(|(tag, _, id)| match *tag {
            OWNING_GROUP => self.groups.contains(&owner),
            NAMED_GROUP => self.groups.contains(id),
            _ => false,
        });
        of_groups
            .map(|(_, rights, _)| rights & mask)
            .reduce(|one, other| one | other)
            .unwrap_or_else(|| of(OTHERS).unwrap_or(0))
    }
}

/// How far one comes on the way to a file.
enum Way {
    /// To the file, whose path without links this is.
    Through(PathBuf),
    /// To this directory.
    Closed(PathBuf, Metadata),
}

/// The access control list of a file that has one, as the kernel stores it.
fn acl(path: &Path) -> Option<Vec<u8>> {
    let mut list = vec![0; 4096];
    let length = rustix::fs::getxattr(path, "system.posix_acl_access", &mut list[..]).ok()?;
    list.truncate(length);
    Some(list)
}

fn group_name(group: u32) -> String {
    let found = Group::from_gid(Gid::from_raw(group)).ok().flatten();
    found.map_or_else(|| group.to_string(), |found| found.name)
}

/// Owner and mode.
fn described(found: &Metadata) -> String {
    let user = User::from_uid(Uid::from_raw(found.uid())).ok().flatten();
    format!(
        "{}:{}, mode {:04o}",
        user.map_or_else(|| found.uid().to_string(), |user| user.name),
        group_name(found.gid()),
        found.mode() & 0o7777
    )
}

/// The files that the server reads and its user may not.
pub fn closed_files(config: &Config, sources: &Sources, etc: &Path) -> Vec<Closed> {
    let runs_as = RunsAs::of(config);
    let Some(user) = runs_as.user() else {
        return Vec::new();
    };
    let base = &sources.base;
    let ours = (!base.ends_with(ORIGINALS)).then_some(base.as_path());
    let directories = sources.listed.iter().map(|path| {
        let origin = Origin::whole_file(path);
        ((String::new(), origin, path.clone()), Need::List(ours))
    });
    let files = files(config, sources, etc).into_iter().map(|file| {
        let need = match file.0.as_str() {
            ROOT_KEY => Need::Own(ours),
            _ => Need::Read(ours),
        };
        (file, need)
    });
    let refused = directories
        .chain(files)
        .filter_map(|((key, origin, path), need)| {
            let (what, remedy) = user.refused(&path, need)?;
            Some(Closed {
                key,
                origin,
                what,
                remedy,
            })
        });
    refused.collect()
}

/// Those of which something is to be said: the first of several that the same command opens, with the number of the others.
pub fn told_once(closed: &[Closed]) -> Vec<(&Closed, usize)> {
    let mut told: Vec<(&Closed, usize)> = Vec::new();
    for closed in closed {
        match told.iter_mut().find(|(it, _)| it.remedy == closed.remedy) {
            Some((_, others)) => *others += 1,
            None => told.push((closed, 0)),
        }
    }
    told
}

/// The key that names the root key's file.
pub const ROOT_KEY: &str = "gridkeep.seal.key_file";

fn files(config: &Config, sources: &Sources, etc: &Path) -> Vec<(String, Origin, PathBuf)> {
    let own = &config.gridkeep;
    let mut files: Vec<(String, Origin, PathBuf)> = sources
        .files
        .iter()
        .map(|file| {
            let origin = Origin::whole_file(&file.path);
            (String::new(), origin, file.path.to_path_buf())
        })
        .collect();
    for (key, file) in [
        ("gridkeep.tls.certificate", &own.certificate),
        ("gridkeep.tls.key", &own.key),
    ] {
        files.push((key.to_owned(), file.origin.clone(), file.value.clone()));
    }
    if !own.shamir.value {
        let origin = own.seal_key_file.as_ref().map(|file| file.origin.clone());
        files.push((
            ROOT_KEY.to_owned(),
            origin.unwrap_or_default(),
            config.root_key_file(&sources.base),
        ));
    }
    for (file, key) in own.etcd.iter().flat_map(|etcd| etcd.files()) {
        files.push((key.to_owned(), file.origin.clone(), file.value.clone()));
    }
    for issuer in &config.issuers {
        for (key, file) in [
            ("private_key", &issuer.private_key),
            ("ca_file", &issuer.ca_file),
        ] {
            if let Some(file) = file {
                let key = format!("issuers[{}].{key}", issuer.name.value);
                files.push((key, file.origin.clone(), file.value.clone()));
            }
        }
    }
    for service in &config.kerberos {
        let places = config.keytab_places(service, etc);
        if let Some(place) = places.into_iter().find(|place| place.exists()) {
            let key = format!("kerberos[{}]", service.name.value);
            files.push((key, service.name.origin.clone(), place));
        }
    }
    files
}

/// Says of each file that the server's user may not read it. For root, to whom nothing else shows it.
pub fn note_closed(config: &Config, sources: &Sources, etc: &Path, findings: &mut Findings) {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    for (closed, _) in told_once(&closed_files(config, sources, etc)) {
        findings.push(Finding::new(
            Severity::Info,
            &closed.origin,
            closed.key.clone(),
            closed.what.clone(),
            format!("The server needs it; as root: {}", closed.remedy),
        ));
    }
}

#[cfg(test)]
mod tests;
