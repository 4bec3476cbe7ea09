use super::*;

#[test]
fn a_process_tells_the_groups_that_count_for_it() {
    let status =
        "Name:\tgridkeep\nUid:\t0\t0\t0\t4000000990\nGid:\t1\t1\t1\t980\nGroups:\t7 4000000008 \n";
    let user = ServiceUser::of_process(status).unwrap();
    assert_eq!((user.uid, user.group), (4_000_000_990, 980));
    assert_eq!(user.groups, [980, 7, 4_000_000_008]);
    assert_eq!(user.name, "4000000990");
    assert_eq!(ServiceUser::of_process("Name:\tgridkeep\n"), None);
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = ServiceUser::of_process(&own).unwrap();
    assert_eq!(own.uid, nix::unistd::geteuid().as_raw());
}

#[test]
fn directories_are_judged_on_both_sides_of_a_link() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let base = tempfile::tempdir_in("/tmp").unwrap();
    mode(base.path(), 0o755);
    let base = fs::canonicalize(base.path()).unwrap();
    let (live, archive) = (base.join("live"), base.join("archive"));
    for directory in [&live, &archive] {
        fs::create_dir(directory).unwrap();
    }
    fs::write(archive.join("1.pem"), "").unwrap();
    mode(&archive.join("1.pem"), 0o604);
    symlink("../archive/1.pem", live.join("now.pem")).unwrap();
    symlink("round.pem", live.join("round.pem")).unwrap();
    let user = ServiceUser {
        uid: 4_000_000_990,
        name: "gridkeep".to_owned(),
        group: 4_000_000_980,
        groups: vec![4_000_000_980],
    };
    let file = live.join("now.pem");
    for (closed, open) in [(&live, &archive), (&archive, &live)] {
        mode(closed, 0o700);
        mode(open, 0o755);
        let (what, remedy) = user.refused(&file, Need::Read(None)).unwrap();
        assert!(what.contains(&format!("{} (", closed.display())), "{what}");
        let expected = format!("setfacl -m u:gridkeep:x {}", closed.display());
        assert_eq!(remedy, expected);
        mode(closed, 0o755);
    }
    assert_eq!(user.refused(&file, Need::Read(None)), None);
    mode(&archive.join("1.pem"), 0o600);
    let (what, remedy) = user.refused(&file, Need::Read(Some(&live))).unwrap();
    assert!(what.contains("cannot read"), "{what}");
    let real = archive.join("1.pem");
    let expected = format!("setfacl -m u:gridkeep:r {}", real.display());
    assert_eq!(remedy, expected, "others may need it");
    assert_eq!(
        user.refused(&live.join("round.pem"), Need::Read(None)),
        None
    );
    mode(&live, 0o701);
    assert_eq!(user.refused(&live, Need::Pass), None);
    let (_, remedy) = user.refused(&live, Need::List(None)).unwrap();
    assert!(remedy.starts_with("setfacl -m u:gridkeep:rx "), "{remedy}");
}

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
