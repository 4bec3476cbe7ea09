//! The user that the server runs as, as far as the owner of its data tells, and which files that user may read.
//!
//! Who examines a host is mostly root, who may read everything. This judges as the kernel does for another user: by owner, access
//! control list, groups, others, and the right to pass through each directory above. Opens and changes nothing.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User};

use super::finding::{Finding, Findings, Origin, Severity};
use super::model::Config;
use super::source::Sources;

/// Whom the unit of the manual runs the server as; asked for where there is no data yet.
const USUAL: &str = "gridkeep";
const READ: u32 = 4;
const PASS: u32 = 1;

/// A user who is not root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceUser {
    /// His number.
    pub uid: u32,
    /// His name, or the number where he has none.
    pub name: String,
    group: u32,
    groups: Vec<u32>,
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

impl ServiceUser {
    /// Who owns the data directory, or what is in it; before the first start the user that the unit of the manual names. `None` where
    /// that is root, or nobody can tell.
    pub fn of(config: &Config) -> Option<Self> {
        let data = &config.gridkeep.data.value;
        let places = [
            data.clone(),
            data.join("store"),
            config.gridkeep.run_directory.value.clone(),
        ];
        let found: Vec<Metadata> = places
            .iter()
            .filter_map(|it| fs::metadata(it).ok())
            .collect();
        match found.iter().find(|found| found.uid() != 0) {
            Some(found) => Some(Self::known(found.uid(), found.gid())),
            None if found.is_empty() => {
                let user = User::from_name(USUAL).ok().flatten()?;
                (!user.uid.is_root()).then(|| Self::known(user.uid.as_raw(), user.gid.as_raw()))
            }
            None => None,
        }
    }

    /// With the groups that the host knows him in; with `group` alone where it does not know him.
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

    /// His first group, as it is written in commands.
    pub fn group(&self) -> String {
        group_name(self.group)
    }

    /// Why he may not read the file at `path`, or pass through the directory, and what to type; `None` when he may, or when that cannot
    /// be seen. A file that must be his `own` is given to him, any other to his group.
    pub fn refused(&self, path: &Path, own: bool) -> Option<(String, String)> {
        let (name, group) = (&self.name, self.group());
        // Links are followed by the kernel, so the rights count where the file is.
        let real = fs::canonicalize(path).ok()?;
        let shown = path.display();
        let mut above: Vec<&Path> = real.ancestors().skip(1).collect();
        above.reverse();
        for directory in above {
            let found = fs::metadata(directory).ok()?;
            if self.rights(directory, &found) & PASS == 0 {
                let directory = directory.display();
                return Some((
                    format!(
                        "The server's user {name} cannot reach {shown}: {directory} ({}) does not let it through.",
                        described(&found)
                    ),
                    format!("chgrp {group} {directory} && chmod g+x {directory}"),
                ));
            }
        }
        let found = fs::metadata(&real).ok()?;
        let (wanted, verb) = if found.is_dir() {
            (PASS, "look into")
        } else {
            (READ, "read")
        };
        if self.rights(&real, &found) & wanted != 0 {
            return None;
        }
        let what = format!(
            "The server's user {name} cannot {verb} {shown} ({}).",
            described(&found)
        );
        let remedy = match (own, found.is_dir()) {
            (true, _) => format!("chown {name}:{group} {shown} && chmod 0600 {shown}"),
            (false, true) => format!("chgrp {group} {shown} && chmod g+x {shown}"),
            (false, false) => format!("chown root:{group} {shown} && chmod 0640 {shown}"),
        };
        Some((what, remedy))
    }

    /// What he may do with a file: bits as in the last digit of a mode.
    fn rights(&self, path: &Path, found: &Metadata) -> u32 {
        if found.uid() == self.uid {
            return found.mode() >> 6 & 7;
        }
        let mut list = [0; 4096];
        match rustix::fs::getxattr(path, "system.posix_acl_access", &mut list[..]) {
            Ok(length) => self.listed(list.get(..length).unwrap_or_default(), found.gid()),
            Err(_) if self.groups.contains(&found.gid()) => found.mode() >> 3 & 7,
            Err(_) => found.mode() & 7,
        }
    }

    /// What an access control list, as the kernel stores it (acl(5), `posix_acl_xattr.h`), gives him. The file is of another user and of
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

/// The files that the server reads and its user may not; one of several that the same command opens.
pub fn closed_files(config: &Config, sources: &Sources, etc: &Path) -> Vec<Closed> {
    let Some(user) = ServiceUser::of(config) else {
        return Vec::new();
    };
    let mut told = HashSet::new();
    let mut closed = Vec::new();
    for (key, origin, path) in files(config, sources, etc) {
        let own = key == ROOT_KEY;
        if let Some((what, remedy)) = user.refused(&path, own)
            && told.insert(remedy.clone())
        {
            closed.push(Closed {
                key,
                origin,
                what,
                remedy,
            });
        }
    }
    closed
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
    for closed in closed_files(config, sources, etc) {
        findings.push(Finding::new(
            Severity::Info,
            &closed.origin,
            closed.key,
            closed.what,
            format!("The server needs it; as root: {}", closed.remedy),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_control_lists_are_judged_as_the_kernel_does() {
        const NOBODY: u32 = u32::MAX;
        let user = ServiceUser {
            uid: 990,
            name: "gridkeep".to_owned(),
            group: 980,
            groups: vec![980, 981],
        };
        let (owner, group, mask, others) = (
            (0x01_u16, 6_u16, NOBODY),
            (0x04, 0, NOBODY),
            (0x10, 4, NOBODY),
            (0x20, 0, NOBODY),
        );
        for (entries, file_group, expected) in [
            // A user by name, within the mask.
            (vec![owner, (0x02, 7, 990), group, mask, others], 0, 4),
            (
                vec![owner, (0x02, 0, 990), (0x04, 7, NOBODY), mask, others],
                980,
                0,
            ),
            // Another one, and a group of ours.
            (
                vec![owner, (0x02, 7, 991), group, (0x08, 5, 981), mask, others],
                0,
                4,
            ),
            // The group of the file, and nothing at all.
            (
                vec![owner, (0x02, 7, 991), (0x04, 4, NOBODY), mask, others],
                980,
                4,
            ),
            (
                vec![owner, (0x02, 7, 991), (0x04, 4, NOBODY), mask, others],
                0,
                0,
            ),
            (vec![owner, group, (0x20, 5, NOBODY)], 0, 5),
        ] {
            let mut list = 2_u32.to_le_bytes().to_vec();
            for (tag, rights, id) in &entries {
                list.extend(tag.to_le_bytes());
                list.extend(rights.to_le_bytes());
                list.extend(id.to_le_bytes());
            }
            assert_eq!(user.listed(&list, file_group), expected, "{entries:?}");
        }
        assert_eq!(user.listed(&[], 0), 0, "nothing is made of half a list");
    }
}
