//! An HTCondor-CE map file: read and matched in bounded time, whatever the expressions are.
#![no_main]

use std::sync::LazyLock;

use gridkeep_token::mapfile::{MapFile, Style};
use libfuzzer_sys::fuzz_target;

static LONG: LazyLock<String> = LazyLock::new(|| "a".repeat(200));

fuzz_target!(|text: &str| {
    for style in [Style::HashKeys, Style::Expressions] {
        let map = MapFile::parse(text, style);
        let _ = map.notes();
        for subject in ["", "alice", LONG.as_str()] {
            let _ = map.match_token("https://vo.example.org", subject);
        }
        let _ = map.lookup("GSI", "/DC=org/CN=alice");
    }
});
