//! `gridkeep.robots` and `gridkeep.plain_listen`.

use super::{ISSUER, Severity, loaded};

#[test]
fn robots_are_cared_for_by_those_the_file_names() {
    let loaded = loaded(&[
        ISSUER,
        "gridkeep: {robots: [{issuer: default, claim: groups, value: /pro, account: dunepro}, {issuer: default, claim: groups, value: /all}]}",
    ]);
    let config = loaded.config.unwrap();
    assert_eq!(config.gridkeep.robots.len(), 2);
    assert_eq!(
        config.gridkeep.robots[0].words(),
        "Logins at `default` with groups = /pro care for the robots of `dunepro`."
    );
    assert!(config.gridkeep.robots[1].account.is_none());
}

#[test]
fn a_wrong_entry_is_left_out_alone() {
    for (entry, told) in [
        ("{issuer: defualt, claim: g, value: v}", "no usable issuer"),
        ("{issuer: default, claim: g}", "value"),
        (
            "{issuer: default, claim: g, value: v, account: 'a/b'}",
            "cannot be the name of an account",
        ),
        (
            "{issuer: default, claim: g, value: v, account: '*'}",
            "cannot be the name of an account",
        ),
        (
            "{issuer: default, claim: g, value: v, account: '{{x}}'}",
            "cannot be the name of an account",
        ),
        ("text", "mapping"),
    ] {
        let text =
            format!("gridkeep: {{robots: [{entry}, {{issuer: default, claim: g, value: w}}]}}");
        let loaded = loaded(&[ISSUER, &text]);
        let rules = &loaded.config.as_ref().unwrap().gridkeep.robots;
        assert_eq!(rules.len(), 1, "{entry}");
        assert!(
            loaded
                .findings
                .iter()
                .any(|finding| finding.severity == Severity::Error
                    && finding.to_string().contains(told)),
            "{entry}: {:?}",
            loaded.findings
        );
    }
}

#[test]
fn without_tls_only_loopback_is_listened_on() {
    let good = loaded(&[
        ISSUER,
        "gridkeep: {plain_listen: ['127.0.0.1:8202', '[::1]:8202']}",
    ]);
    assert_eq!(good.config.unwrap().gridkeep.plain_listen.len(), 2);
    for bad in [
        "0.0.0.0:8202",
        "[::]:8202",
        "192.0.2.1:8202",
        "[::ffff:192.0.2.1]:8202",
        "8202",
        "localhost:8202",
    ] {
        let refused = loaded(&[ISSUER, &format!("gridkeep: {{plain_listen: ['{bad}']}}")]);
        assert!(refused.config.is_none(), "{bad}");
        assert!(
            refused
                .findings
                .iter()
                .any(|finding| finding.severity == Severity::Fatal
                    && finding.to_string().contains("plain_listen")),
            "{bad}"
        );
    }
}
