use proptest::prelude::*;

use super::*;

const TEXT: &str = r#"
# a comment
SSL "/CN=host" hostuser
SCITOKENS /^https:\/\/vo\.example\.org,anna$/ anna
SCITOKENS /^https\:\/\/vo\.example\.org,(.*)@Example\.org$/i grid_\1
SCITOKENS "https://whole.example.org,sub with blank" whole
scitokens /^https:\/\/plug\.example\.org,/ PLUGIN:*
SCITOKENS /^https:\/\/(?!bad)/ negative
SCITOKENS /^https:\/\/vo\.example\.org,/ pool
broken
SCITOKENS /never closed
"#;

fn account(map: &MapFile, iss: &str, sub: &str) -> Option<(usize, String)> {
    map.match_token(iss, sub)
        .matched
        .map(|found| (found.place.line, found.account))
}

#[test]
fn the_first_match_wins() {
    let map = MapFile::parse(TEXT, Style::HashKeys);
    let vo = "https://vo.example.org";
    assert_eq!(account(&map, vo, "anna"), Some((4, "anna".to_owned())));
    assert_eq!(
        account(&map, vo, "bob@example.ORG"),
        Some((5, "grid_bob".to_owned()))
    );
    assert_eq!(account(&map, vo, "annabel"), Some((9, "pool".to_owned())));
    assert_eq!(
        account(&map, "https://whole.example.org", "sub with blank"),
        Some((6, "whole".to_owned()))
    );
    assert_eq!(
        account(&map, "https://whole.example.org", "sub with blank2"),
        None
    );
    assert_eq!(
        account(&map, "https://vo.example.org.evil.example", "anna"),
        None
    );
    let plugin = map
        .match_token("https://plug.example.org", "x")
        .matched
        .unwrap();
    assert!(plugin.by_plugin());
    assert_eq!(plugin.pattern, r"/^https:\/\/plug\.example\.org,/");
    assert_eq!(
        map.lookup("SSL", "/CN=host").matched.unwrap().account,
        "hostuser"
    );
}

#[test]
fn what_cannot_be_judged_is_said() {
    let map = MapFile::parse(TEXT, Style::HashKeys);
    let noted: Vec<usize> = map.notes().iter().map(|note| note.place.line).collect();
    assert_eq!(noted, [10, 11]);
    let mapping = map.match_token("https://vo.example.org", "annabel");
    assert_eq!(mapping.unjudged.len(), 1);
    assert_eq!(mapping.unjudged[0].place.line, 8);
    assert!(
        map.match_token("https://vo.example.org", "anna")
            .unjudged
            .is_empty()
    );
}

#[test]
fn groups_are_counted_not_parentheses() {
    let subject = "a".repeat(40);
    let line = |group: &str, count| format!("SCITOKENS /,{}$/ pool\n", group.repeat(count));
    let many = MapFile::parse(&line("(a?)", 33), Style::HashKeys);
    let mapping = many.match_token("https://vo.example.org", &subject[..20]);
    assert!(mapping.matched.is_none());
    assert!(mapping.unjudged[0].text.contains("more than 32 groups"));
    for fitting in [line("(a?)", 32), line("(?:a?)", 40)] {
        let map = MapFile::parse(&fitting, Style::HashKeys);
        assert_eq!(
            account(&map, "https://vo.example.org", &subject[..20]),
            Some((1, "pool".to_owned()))
        );
    }
}

#[test]
fn without_hash_keys_every_field_is_an_expression_and_slashes_are_text() {
    let text = "SCITOKENS \"https://jobsub.fnal.gov(.*)nova(.*)\" nova\nSCITOKENS https://iam.example osg\n\
                SCITOKENS /^https:/ never\n";
    let map = MapFile::parse(text, Style::Expressions);
    assert_eq!(
        account(&map, "https://jobsub.fnal.gov/x", "nova1"),
        Some((1, "nova".to_owned()))
    );
    assert_eq!(
        account(&map, "https://iam.example", "any"),
        Some((2, "osg".to_owned()))
    );
    assert_eq!(account(&map, "https://other.example", "any"), None);
}

#[test]
fn includes_are_followed_in_order_and_not_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let parts = dir.path().join("mapfiles.d");
    fs::create_dir(&parts).unwrap();
    fs::write(parts.join("20-b.conf"), "SCITOKENS /,b$/ late\n").unwrap();
    fs::write(parts.join("10-a.conf"), "\nSCITOKENS /,b$/ early\n").unwrap();
    let main = dir.path().join("condor_mapfile");
    fs::write(
        &main,
        "@include mapfiles.d\n@include missing\n@include condor_mapfile\n",
    )
    .unwrap();
    let map = MapFile::load(&main, Style::HashKeys).unwrap();
    let found = map.match_token("https://x", "b").matched.unwrap();
    assert_eq!(found.account, "early");
    assert_eq!(
        found.place.to_string(),
        format!("{}:2", parts.join("10-a.conf").display())
    );
    assert!(map.notes().iter().any(|note| note.text.contains("deeply")));
    assert!(map.notes().iter().any(|note| note.place.line == 2));
    assert!(MapFile::load(&dir.path().join("none"), Style::HashKeys).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_text_is_survived(text in "(SCITOKENS|[ \"/\\\\]|\\PC){0,40}", name in "\\PC{0,20}") {
        for style in [Style::HashKeys, Style::Expressions] {
            let _ = MapFile::parse(&text, style).match_token(&name, "sub");
        }
    }
}
