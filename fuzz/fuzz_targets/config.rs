//! Configuration files (two of them where the input has a NUL): read without panic, and what comes out can be shown, read again
//! and compared.
#![no_main]

// The module of the program, which is no library.
#[allow(dead_code, unused_imports, missing_docs)]
#[path = "../../crates/gridkeep/src/config/mod.rs"]
mod config;

use std::path::PathBuf;
use std::sync::LazyLock;

use config::{Loaded, Surroundings};
use libfuzzer_sys::fuzz_target;

static DIRECTORY: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    }
    .unwrap()
});

fn load(texts: &[&[u8]]) -> Loaded {
    let paths: Vec<PathBuf> = (0..texts.len())
        .map(|number| DIRECTORY.path().join(format!("{number}.yaml")))
        .collect();
    for (path, text) in paths.iter().zip(texts) {
        std::fs::write(path, text).unwrap();
    }
    let surroundings = Surroundings {
        hostname: "node.lab.example".to_owned(),
        etc: PathBuf::from("/nonexistent"),
        look_at_files: false,
    };
    config::load(&paths, &surroundings)
}

fuzz_target!(|bytes: &[u8]| {
    let texts: Vec<&[u8]> = bytes.splitn(2, |byte| *byte == 0).collect();
    let loaded = load(&texts);
    for finding in &loaded.findings {
        let shown = finding.to_string();
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
    }
    let Some(config) = &loaded.config else { return };
    assert!(config::diff(config, config).is_empty());
    let shown = config::show_effective(config);
    let again = load(&[shown.as_bytes()]);
    assert!(again.config.is_some(), "{shown}\n{:?}", again.findings);
});
