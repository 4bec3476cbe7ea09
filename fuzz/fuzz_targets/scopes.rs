//! A scope claim, and after a line end a path somebody asks for: nobody gets out of the directory a scope gives.
#![no_main]

use std::sync::LazyLock;

use gridkeep_token::scope::{AreaPath, Language, Operation, Scopes};
use libfuzzer_sys::fuzz_target;

static OPERATIONS: LazyLock<Vec<Operation>> = LazyLock::new(|| {
    Operation::words()
        .iter()
        .filter_map(|word| word.replace("<new path>", "/a/b").parse().ok())
        .collect()
});

fuzz_target!(|text: &str| {
    let (claim, path) = text.split_once('\n').unwrap_or((text, "/a/b"));
    if let Ok(area) = AreaPath::parse(path) {
        for component in area.components() {
            assert!(
                !component.is_empty()
                    && component != "."
                    && component != ".."
                    && !component.contains('/'),
                "{area:?}"
            );
        }
        assert!(area.is_prefix_of(&area));
    }
    for language in [Language::Wlcg, Language::SciTokens] {
        match Scopes::parse(claim, language) {
            Ok(scopes) => {
                let _ = (
                    scopes.condor_levels(),
                    scopes.names_capability(),
                    scopes.host_auth(),
                );
                for operation in OPERATIONS.iter() {
                    let _ = scopes.decide(operation, path);
                }
            }
            Err(error) => assert!(!error.to_string().chars().any(char::is_control), "{error}"),
        }
    }
});
