//! Whatever the text is, loading ends, soon, without panic, and what it gives can be shown, hashed and compared.

use super::*;
use crate::config::{digest, show_effective};
use proptest::prelude::*;

/// Loads and uses the result in every way.
fn exercise(text: &str) -> Loaded {
    let loaded = loaded(&[ISSUER, text]);
    for finding in &loaded.findings {
        assert!(
            !finding.to_string().chars().any(|c| c.is_control()),
            "{finding:?}"
        );
    }
    if let Some(config) = &loaded.config {
        assert!(crate::config::diff(config, config).is_empty());
        let shown = show_effective(config).replace("\"********\"", "s3cr3t-canary");
        let again = loaded_alone(&shown);
        assert!(
            again.config.is_some(),
            "{shown}\n{:?}",
            at_least(&again, Severity::Fatal)
        );
        assert_eq!(digest(&again.config.unwrap()), digest(config), "{shown}");
    }
    loaded
}

fn loaded_alone(text: &str) -> Loaded {
    loaded(&[text])
}

#[test]
fn the_corpus_is_survived() {
    let mut files = 0;
    for entry in std::fs::read_dir(crate_directory("corpus/yaml")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        exercise(&String::from_utf8_lossy(&bytes));
        files += 1;
    }
    assert!(files >= 25);
}

#[test]
fn long_texts_of_one_sign_take_no_long_time() {
    for sign in [
        "[", "{", "- ", "? ", "a: ", "&a ", "!", "*a ", "\"", "'", "|\n", "\t", "#", ",", "a:\n",
        "---\n", "%", "\n", "[a: ", "{a, ",
    ] {
        let text = sign.repeat(100_000 / sign.len());
        exercise(&text);
    }
}

#[test]
fn a_flood_of_unknown_names_takes_no_long_time() {
    let keys: String = (0..50_000)
        .map(|n| format!("  clientid-of-somebody-{n}: x\n"))
        .collect();
    let text = format!("issuers:\n- name: flood\n{keys}");
    let loaded = exercise(&text);
    assert!(loaded.findings.len() <= 1_001);
    let members: String = (0..50_000).map(|n| format!("n{n}.example, ")).collect();
    let config = exercise(&format!("cluster: {{members: [{members}]}}"))
        .config
        .unwrap();
    assert!(config.cluster.members.is_empty());
}

fn example_text() -> String {
    let mut text = String::new();
    for name in ["10-cluster.yaml", "15-logins.yaml", "20-issuers.yaml"] {
        text += &std::fs::read_to_string(crate_directory("testdata/config/example").join(name))
            .unwrap();
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_text(text in "\\PC{0,200}") {
        exercise(&text);
    }

    #[test]
    fn text_of_yaml_signs(text in "[-\\[\\]{}:,?!&*#|>'\"%@`~<=a-c0-9 \n\t\\\\]{0,120}") {
        exercise(&text);
    }

    #[test]
    fn arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        exercise(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn a_damaged_configuration(cuts in proptest::collection::vec((any::<prop::sample::Index>(), 0_usize..30, "[-\\[\\]{}:,&*#|>'\"a \n]{0,3}"), 1..6)) {
        let mut text: Vec<char> = example_text().chars().collect();
        for (at, length, put) in cuts {
            let at = at.index(text.len() + 1);
            let end = (at + length).min(text.len());
            text.splice(at..end, put.chars());
        }
        exercise(&text.into_iter().collect::<String>());
    }

    #[test]
    fn any_value_survives_being_shown(values in proptest::collection::vec("[^\\p{C}]{1,12}", 4), path in "/[ -~]{1,12}") {
        let quoted: Vec<String> = values.iter().map(|v| format!("'{}'", v.replace('\'', "''"))).collect();
        let text = format!(
            "issuers: [{{name: x, clientid: {}, url: 'https://x.example.org', secret: s3cr3t-canary, credclaim: {}, authorization_params: {{{}: {}}}, ca_file: '{}', roles: [{{name: default}}]}}]",
            quoted[0], quoted[1], quoted[2], quoted[3], path.replace('\'', "''")
        );
        let loaded = exercise(&text);
        let config = loaded.config.unwrap();
        if let Some(issuer) = config.issuer("x") {
            prop_assert_eq!(&issuer.clientid.value, &values[0]);
        }
    }
}
