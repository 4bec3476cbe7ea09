//! What an error leaves out counts as still there.

use super::loaded;
use gridkeep_keeper::LeftOut;

const GOOD: &str = "issuers:\n- {name: dune, clientid: c, secret: s, url: 'https://iam.example.org/', credclaim: sub, roles: [{name: default}, {name: Production}]}\n";

fn left_out(texts: &[&str]) -> LeftOut {
    loaded(texts).config.unwrap().left_out
}

fn set(names: &[&str]) -> std::collections::BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_sound_configuration_leaves_nothing_out() {
    let ssh = "ssh: {self-registration: allowed}";
    let off = "ssh: {self-registration: ''}";
    for text in ["", "x-lab: {}", ssh, off, "ssh: {}", "ssh:", "issuers:"] {
        assert_eq!(left_out(&[GOOD, text]), LeftOut::default(), "{text}");
    }
    assert_eq!(left_out(&["{}"]), LeftOut::default());
    // What is taken out on purpose is not left out.
    let taken = [GOOD, "issuers: [{name: dune, delete: true}]"];
    assert_eq!(left_out(&taken), LeftOut::default());
    let taken = [
        GOOD,
        "issuers: [{name: dune, roles: [{name: default, delete: true}]}]",
    ];
    assert_eq!(left_out(&taken), LeftOut::default());
}

#[test]
fn what_has_a_name_is_left_out_by_name() {
    for entry in [
        "{name: cms}",
        "{name: cms, clientid: c, secret: s, url: 'http://x', credclaim: sub, roles: [{name: default}]}",
        "{name: cms, clientid: c, secret: s, url: 'https://x/', credclaim: sub, rolse: [{name: default}]}",
        "{name: cms, clientid: c, secret: s, url: 'https://x/', credclaim: sub, roles: [{name: default, token_ttl: soon}]}",
        "{name: cms, clientid: c, secret: s, url: 'https://x/', credclaim: sub, roles: default}",
    ] {
        let text = format!("issuers: [{entry}]");
        let found = left_out(&[GOOD, &text]);
        assert_eq!(found.issuers, set(&["cms"]), "{entry}");
        assert!(!found.any_issuer, "{entry}");
    }
    // A name that is used twice is of neither.
    let twice = left_out(&["issuers: [{name: cms}, {name: cms}]"]);
    assert_eq!(twice.issuers, set(&["cms"]));

    let roles = [
        GOOD,
        "issuers: [{name: dune, roles: [{name: Nightly, token_ttl: soon}, {name: a}, {name: A}]}]",
    ];
    let found = left_out(&roles);
    assert_eq!(found.roles, set(&["dune/nightly", "dune/a"]));
    assert!(found.issuers.is_empty() && found.any_role_of.is_empty());
}

#[test]
fn what_has_no_name_that_can_be_read_could_be_any() {
    for text in [
        "issuers: [{nmae: cms}]",
        "issuers: [{name: 'c ms'}]",
        "issuers: [{name: [cms]}]",
        "issuers: [cms]",
        "isuers: [{name: cms}]",
    ] {
        let found = left_out(&[GOOD, text]);
        assert!(found.any_issuer && found.issuers.is_empty(), "{text}");
    }
    assert!(left_out(&["issuers: {cms: {}}"]).any_issuer);
    let found = left_out(&[GOOD, "issuers: [{name: dune, roles: [{nmae: x}]}]"]);
    assert_eq!(found.any_role_of, set(&["dune"]));
    assert!(found.roles.is_empty());
}

#[test]
fn ssh_that_an_error_switches_off_is_left_out() {
    for text in [
        "ssh: allowed",
        "ssh: {self-registration: yes please}",
        "shh: {self-registration: allowed}",
        "ssh: {self_registration: allowed}",
        "ssh: {cross_issuer: true}",
    ] {
        assert!(left_out(&[GOOD, text]).ssh, "{text}");
    }
}

#[test]
fn the_service_of_another_realm_does_not_take_a_broken_ones_place() {
    let service = |texts: &[&str]| {
        let mut all = vec![GOOD];
        all.extend(texts);
        let config = loaded(&all).config.unwrap();
        let dune = config.issuer("dune").unwrap().clone();
        let found = config.kerberos_service(&dune);
        (
            found.map(|service| service.name.value.clone()),
            config.left_out.kerberos,
        )
    };
    let named = |name: &str| Some(name.to_owned());
    assert_eq!(
        service(&["kerberos: [{name: lab}, {name: other}]"]),
        (named("lab"), false)
    );
    assert_eq!(
        service(&["kerberos: [{name: lab}, {name: dune}]"]),
        (named("dune"), false)
    );
    assert_eq!(service(&["kerberos:"]), (None, false));
    // The general one, and one of the issuer's own name.
    for broken in [
        "kerberos: [{name: lab, policydomain: oops}, {name: other}]",
        "kerberos: [{name: lab}, {name: dune, policydomain: oops}]",
        "kerberos: [{name: lab}, {name: dune}, {name: dune}]",
        "kerberos: [{name: lab}, {nmae: dune}]",
        "kerberso: [{name: lab}]",
        "kerberos: lab",
    ] {
        assert_eq!(service(&[broken]), (None, true), "{broken}");
    }
    // One that is asked for and not there: the issuer is served without, and tokens of its tickets are kept.
    let asks = "issuers: [{name: dune, kerbservice: lap}]";
    assert_eq!(service(&["kerberos: [{name: lab}]", asks]), (None, true));
    let asks = "issuers: [{name: dune, kerbservice: lab}]";
    assert_eq!(
        service(&["kerberos: [{name: lab}]", asks]),
        (named("lab"), false)
    );
    // What is broken is neither.
    assert_eq!(
        service(&["kerberos: [{name: lab}, {name: other, policydomain: oops}]"]),
        (named("lab"), true)
    );
}
