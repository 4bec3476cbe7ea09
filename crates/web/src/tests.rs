use super::*;

use base64::Engine;

const HOSTILE: &str = "\"><script>alert('x')</script>&amp;{{ style }}";

#[test]
fn the_style_is_the_one_the_policy_allows() {
    let hash = base64::engine::general_purpose::STANDARD.encode(aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA256,
        STYLE.as_bytes(),
    ));
    let policy = HEADERS
        .iter()
        .find(|(name, _)| *name == "content-security-policy")
        .unwrap()
        .1;
    assert!(
        policy.contains(&format!("style-src 'sha256-{hash}'")),
        "templates/style.css changed: its hash is now {hash}"
    );
    assert!(
        confirm(&login("s", "c"))
            .html
            .contains(&format!("<style>{STYLE}</style>")),
        "the style is inserted to the byte"
    );
}

fn login<'a>(state: &'a str, code: &'a str) -> ConfirmLogin<'a> {
    ConfirmLogin {
        issuer: "dune",
        role: "default",
        requester: Some("::ffff:192.0.2.7".parse().unwrap()),
        state,
        code,
        token: "t",
    }
}

#[test]
fn confirmation_shows_who_asked_and_posts() {
    let page = confirm(&login("st_1", "c+/="));
    assert_eq!(page.status, 200);
    assert!(
        page.html.contains(">192.0.2.7<"),
        "the requester's address in its plain form"
    );
    assert!(page.html.contains("method=\"post\""));
    assert!(page.html.contains("name=\"state\" value=\"st_1\""));
    assert!(page.html.contains("name=\"code\" value=\"c+/=\""));
    assert!(page.html.contains("name=\"form_token\" value=\"t\""));
    assert!(!format!("{:?}", login("st_1", "secret-code")).contains("secret-code"));
}

#[test]
fn every_value_is_escaped() {
    let hostile = ConfirmLogin {
        issuer: HOSTILE,
        role: HOSTILE,
        requester: None,
        state: HOSTILE,
        code: HOSTILE,
        token: HOSTILE,
    };
    for page in [
        confirm(&hostile),
        done(HOSTILE, HOSTILE, HOSTILE),
        denied(HOSTILE, "access_denied"),
        problem(400, HOSTILE),
        landing(HOSTILE),
    ] {
        assert!(!page.html.contains("<script"), "{}", page.html);
        assert!(
            !page.html.contains("\"><"),
            "an attribute was left: {}",
            page.html
        );
        assert!(
            page.html.contains("&#60;script&#62;") || page.html.contains("&lt;script&gt;"),
            "{}",
            page.html
        );
    }
}

#[test]
fn pages_load_nothing() {
    for page in [
        confirm(&login("s", "c")),
        done("i", "r", "o"),
        denied("i", "access_denied"),
        expired(),
        problem(500, "x"),
        landing("1"),
    ] {
        for attribute in [
            "src=", "href=", "url(", "@import", "http:", "https:", "<script", "onclick",
        ] {
            assert!(
                !page.html.contains(attribute),
                "{attribute} in {}",
                page.html
            );
        }
        assert!(page.html.starts_with("<!doctype html>"));
    }
}

#[test]
fn denial_repeats_standard_codes_only() {
    assert!(
        denied("dune", "access_denied")
            .html
            .contains("access_denied")
    );
    let own = denied("dune", "call +1 555 0100 to unlock");
    assert!(!own.html.contains("555"));
    assert_eq!(own.status, 400);
    assert!(is_standard_code("login_required") && !is_standard_code(""));
}
