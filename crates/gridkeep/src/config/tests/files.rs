//! Which files are read, in which order, and what is said of the others.

use super::*;
use crate::config::{default_paths, load};
use std::fs;

#[test]
fn a_directory_gives_its_yaml_files_in_the_order_of_their_bytes() {
    let etc = tempfile::tempdir().unwrap();
    let directory = etc.path().join("config.d");
    fs::create_dir_all(directory.join("50-sub.yaml")).unwrap();
    for (name, text) in [
        ("b.yaml", "cluster: {name: b.example.org}"),
        ("B.yaml", "cluster: {name: upper.example.org}"),
        (
            ".hidden.yaml",
            "cluster: {name: hidden.example.org, myname: hidden.example.org}",
        ),
        ("10.yaml", "cluster: {name: ten.example.org}"),
        ("9.yaml", "cluster: {name: nine.example.org}"),
        ("empty.yaml", ""),
        ("old.yml", "cluster: {name: yml.example.org}"),
        ("z.yaml.bak", "cluster: {name: bak.example.org}"),
        ("yaml", "cluster: {name: none.example.org}"),
    ] {
        fs::write(directory.join(name), text).unwrap();
    }
    let loaded = load(std::slice::from_ref(&directory), &nowhere());
    let names: Vec<_> = loaded
        .sources
        .files
        .iter()
        .map(|f| f.path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        names,
        [
            ".hidden.yaml",
            "10.yaml",
            "9.yaml",
            "B.yaml",
            "b.yaml",
            "empty.yaml"
        ]
    );
    let config = loaded.config.as_ref().unwrap();
    assert_eq!(config.service_name().value, "b.example.org");
    assert_eq!(config.own_name().value, "hidden.example.org");
    assert_eq!(config.gridkeep.key.value, etc.path().join("hostkey.pem"));
    let texts: Vec<String> = loaded.findings.iter().map(ToString::to_string).collect();
    assert!(
        texts
            .iter()
            .any(|t| t.contains("old.yml: warning: The file name ends in `.yml`")),
        "{texts:?}"
    );
    assert!(
        texts
            .iter()
            .any(|t| t.contains("50-sub.yaml: warning: This is a directory")),
        "{texts:?}"
    );
}

#[test]
fn several_paths_are_taken_in_their_order_and_files_whatever_their_name() {
    let etc = tempfile::tempdir().unwrap();
    let (one, two) = (etc.path().join("z.conf"), etc.path().join("a.conf"));
    fs::write(&one, "cluster: {name: one.example.org}").unwrap();
    fs::write(
        &two,
        "cluster: {name: two.example.org}\ngridkeep: {data: state}",
    )
    .unwrap();
    let config = load(&[one, two], &nowhere()).config.unwrap();
    assert_eq!(config.service_name().value, "two.example.org");
    assert_eq!(config.gridkeep.data.value, etc.path().join("state"));
    assert_eq!(
        config.gridkeep.certificate.value,
        etc.path().join("hostcert.pem")
    );
}

#[test]
fn what_cannot_be_read_is_fatal_since_a_hole_could_undo_a_deletion() {
    let etc = tempfile::tempdir().unwrap();
    let good = etc.path().join("good.yaml");
    fs::write(&good, ISSUER).unwrap();
    let bad = etc.path().join("bad.yaml");
    fs::write(&bad, b"a: b\nc: \xff\n").unwrap();
    let dangling = etc.path().join("sub.d");
    fs::create_dir(&dangling).unwrap();
    std::os::unix::fs::symlink("/nonexistent", dangling.join("dangling.yaml")).unwrap();
    let pipe = etc.path().join("pipe.yaml");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (path, expected) in [
        (
            etc.path().join("absent"),
            "absent: fatal: It cannot be read",
        ),
        (dangling, "dangling.yaml: fatal: It cannot be read"),
        (
            bad,
            "bad.yaml:2:4: fatal: The bytes from here on are not UTF-8.",
        ),
        (pipe, "not a regular file"),
    ] {
        let loaded = load(&[good.clone(), path], &nowhere());
        assert!(loaded.config.is_none());
        let texts: Vec<String> = loaded.findings.iter().map(ToString::to_string).collect();
        assert!(
            texts.iter().any(|text| text.contains(expected)),
            "{texts:?}"
        );
    }
}

#[test]
fn an_empty_directory_warns_and_a_large_file_is_refused() {
    let etc = tempfile::tempdir().unwrap();
    let loaded = load(&[etc.path().to_path_buf()], &nowhere());
    assert!(loaded.config.is_some());
    assert!(
        loaded
            .findings
            .iter()
            .any(|finding| finding.what.contains("no file ending in `.yaml`"))
    );
    fs::write(etc.path().join("x.yaml"), vec![b'#'; 5 << 20]).unwrap();
    assert!(
        load(&[etc.path().to_path_buf()], &nowhere())
            .config
            .is_none()
    );
}

#[test]
fn our_directory_is_preferred_to_the_originals() {
    let etc = tempfile::tempdir().unwrap();
    assert_eq!(
        default_paths(etc.path()),
        [etc.path().join("htvault-config/config.d")]
    );
    fs::create_dir_all(etc.path().join("gridkeep/config.d")).unwrap();
    assert_eq!(
        default_paths(etc.path()),
        [etc.path().join("gridkeep/config.d")]
    );
}

#[test]
fn where_no_configuration_is_both_places_are_named() {
    let etc = tempfile::tempdir().unwrap();
    let loaded = load(&default_paths(etc.path()), &nowhere());
    let said = loaded.findings[0].to_string();
    for place in ["htvault-config/config.d", "gridkeep/config.d"] {
        let place = etc.path().join(place).display().to_string();
        assert!(said.contains(&place), "{said}");
    }
}
