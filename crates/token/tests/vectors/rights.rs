//! `scopes.json`, `operations.json`, `groups.json` and the issuer's side: `group-selection.json`, `capability-sets.json`.

use gridkeep_token::group::Group;
use gridkeep_token::profile::{GroupRule, SubjectRule, TrustedIssuer, Verifier};
use gridkeep_token::scope::{AreaPath, Capability, Language, Operation, Scopes, StorageRight};
use gridkeep_token::select::{self, Membership};
use serde_json::{Value, json};

use crate::claims::{judge, verifier};
use crate::issuer::{Issuer, NOW};
use crate::{each, load, same};

fn written(capability: &Capability) -> String {
    match capability {
        Capability::Storage { right, path } => format!("{}:{path}", right.name()),
        Capability::Compute(right) => right.name().to_owned(),
        Capability::HostAuth => "host.auth".to_owned(),
    }
}

fn texts(value: &Value) -> Vec<String> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn scopes() {
    let (file, claims) = (load("scopes.json"), load("claims.json"));
    let (issuer, verifier) = (Issuer::new(), verifier());
    each(&file, |row| {
        let change = json!({"set": {"scope": row["scope"]}});
        let token = issuer.mint(&claims["header"], &claims["baseline"], &change);
        let Some(verified) = judge(row, &token, verifier.verify(&token, &issuer, NOW))? else {
            return Ok(());
        };
        let scopes = verified.scopes();
        let found: Vec<String> = scopes
            .list()
            .iter()
            .flat_map(|scope| scope.capabilities.iter().map(written))
            .collect();
        same("what it grants", found, texts(&row["grants"]))?;
        if let Some(expected) = row["capability"].as_bool() {
            same(
                "whether it names a capability",
                scopes.names_capability(),
                expected,
            )?;
        }
        if let Some(expected) = row["scopes"].as_u64() {
            same("the number of scopes", scopes.list().len() as u64, expected)?;
        }
        if row["components"].is_array() {
            match &scopes.list()[0].capabilities[0] {
                Capability::Storage { path, .. } => same(
                    "the components",
                    path.components().to_vec(),
                    texts(&row["components"]),
                )?,
                other => return Err(format!("grants {other:?}")),
            }
        }
        for (member, expected) in [("allows", true), ("denies", false)] {
            for operation in row[member].as_array().unwrap_or(&Vec::new()) {
                let decision =
                    verified.authorize(&operation.as_str().unwrap().parse().unwrap(), "");
                same(&decision.reason, decision.allowed, expected)?;
            }
        }
        Ok(())
    });
}

#[test]
fn operations() {
    let (file, claims) = (load("operations.json"), load("claims.json"));
    let issuer = Issuer::new();
    each(&file, |row| {
        let text = |name: &str| row[name].as_str().unwrap_or_default();
        let allowed = row["allowed"].as_bool().unwrap();
        let operation = |base: &str| -> Operation {
            let word = text("operation");
            let full = if row["to"].is_string() {
                format!("{word}:{base}{}", text("to"))
            } else {
                word.to_owned()
            };
            full.parse().unwrap()
        };
        let mut trusted = TrustedIssuer::wlcg("https://vo.example.org");
        trusted.base_paths.push(AreaPath::parse("/vo").unwrap());
        trusted.listing = if row["listing"].is_string() {
            vec![StorageRight::Read]
        } else {
            Vec::new()
        };
        let configured = row["listing"].is_string();
        let verifier = Verifier::new(["https://se.example.org"]).trust(trusted);
        let version = row["version"].as_str().unwrap_or("1.0");
        let change = json!({"set": {"scope": row["scope"], "wlcg.ver": version}});
        let token = issuer.mint(&claims["header"], &claims["baseline"], &change);
        let verified = verifier
            .verify(&token, &issuer, NOW)
            .map_err(|refusal| refusal.to_string())?;
        let base = if row["outside"] == true { "" } else { "/vo" };
        let path = format!("{base}{}", text("path"));
        let decision = verified.authorize(&operation(base), &path);
        same(&decision.reason, decision.allowed, allowed)?;
        match verified.require(&operation(base), &path) {
            Ok(_) => same("requiring", true, allowed)?,
            Err(refusal) => {
                same("requiring", false, allowed)?;
                same(
                    "the refusal",
                    (
                        refusal.code(),
                        refusal.step().number(),
                        refusal.http_status(),
                    ),
                    ("denied", 10, 403),
                )?;
            }
        }
        if row["outside"] == true || configured {
            return Ok(());
        }
        // The same without a token: the decision on the area's own paths.
        let scopes =
            Scopes::parse(text("scope"), Language::Wlcg).map_err(|error| error.to_string())?;
        let decision = scopes
            .decide(&operation(""), text("path"))
            .map_err(|error| error.to_string())?;
        same(&decision.reason, decision.allowed, allowed)
    });
}

#[test]
fn making_an_existing_directory_on_the_way_is_not_granted() {
    let scopes = Scopes::parse("storage.create:/foo/bar", Language::Wlcg).unwrap();
    let exists = Operation::MakeDirectory { exists: true };
    assert!(!scopes.decide(&exists, "/foo").unwrap().allowed);
    assert!(scopes.decide(&exists, "/foo/bar/x").unwrap().allowed);
}

#[test]
fn operations_are_read_as_they_are_written() {
    for word in Operation::words() {
        let word = word.replace("<new path>", "/x");
        assert_eq!(word.parse::<Operation>().unwrap().to_string(), word);
    }
    assert!("rename:".parse::<Operation>().is_err());
    assert!(
        "fly"
            .parse::<Operation>()
            .unwrap_err()
            .to_string()
            .contains("mkdir")
    );
}

#[test]
fn areas_are_tried_each_and_renames_stay_in_one() {
    let claims = load("claims.json");
    let issuer = Issuer::new();
    let path = |text| AreaPath::parse(text).unwrap();
    let trusted = TrustedIssuer::wlcg("https://vo.example.org")
        .with_base_path(path("/vo"))
        .with_base_path(path("/vo/sub"))
        .with_base_path(path("/other"));
    let verifier = Verifier::new(["https://se.example.org"]).trust(trusted);
    let change = json!({"set": {"scope": "storage.read:/x storage.modify:/m"}});
    let token = issuer.mint(&claims["header"], &claims["baseline"], &change);
    let verified = verifier.verify(&token, &issuer, NOW).unwrap();
    for (operation, path, expected) in [
        ("read", "/vo/x", true),
        ("read", "/vo/sub/x", true),
        ("read", "/other/x/y", true),
        ("read", "/x", false),
        ("rename:/other/m/b", "/other/m/a", true),
        ("rename:/other/m/b", "/vo/m/a", false),
        ("rename:/m/b", "/vo/m/a", false),
        ("rename:/vo/m/../b", "/vo/m/a", false),
    ] {
        let decision = verified.authorize(&operation.parse().unwrap(), path);
        assert_eq!(
            decision.allowed, expected,
            "{operation} {path}: {}",
            decision.reason
        );
    }
}

#[test]
fn groups() {
    let (file, claims) = (load("groups.json"), load("claims.json"));
    let issuer = Issuer::new();
    let rule = GroupRule {
        group: file["rule"]["group"].as_str().unwrap().parse().unwrap(),
        rights: Scopes::parse(file["rule"]["rights"].as_str().unwrap(), Language::Wlcg).unwrap(),
    };
    let mut trusted = TrustedIssuer::wlcg("https://vo.example.org");
    trusted.groups.push(rule);
    let verifier = Verifier::new(["https://se.example.org"]).trust(trusted);
    each(&file, |row| {
        let mut change = json!({"set": {"wlcg.groups": row["groups"]}});
        match row["scope"].as_str() {
            Some(scope) => change["set"]["scope"] = scope.into(),
            None => change["remove"] = json!(["scope"]),
        }
        let token = issuer.mint(&claims["header"], &claims["baseline"], &change);
        let result = verifier.verify(&token, &issuer, NOW);
        let verdict = row["verdict"].as_str().unwrap();
        if !matches!(verdict, "allow" | "deny") {
            return judge(row, &token, result).map(|_| ());
        }
        let verified = result.map_err(|refusal| refusal.to_string())?;
        for operation in ["create", "overwrite"] {
            let decision = verified.authorize(&operation.parse().unwrap(), "/f");
            same(&decision.reason, decision.allowed, verdict == "allow")?;
        }
        Ok(())
    });
}

#[test]
fn subjects_count_only_with_host_auth() {
    let claims = load("claims.json");
    let issuer = Issuer::new();
    let mut trusted = TrustedIssuer::wlcg("https://vo.example.org");
    let rights = Scopes::parse("storage.read:/", Language::Wlcg).unwrap();
    trusted.subjects.push(SubjectRule {
        subject: "host:a.example.org".to_owned(),
        rights,
    });
    let verifier = Verifier::new(["https://se.example.org"]).trust(trusted);
    for (subject, scope, expected) in [
        ("host:a.example.org", "host.auth", true),
        ("host:b.example.org", "host.auth", false),
        ("host:a.example.org", "openid", false),
        ("host:a.example.org", "host.auth compute.read", false),
    ] {
        let change = json!({"set": {"sub": subject, "scope": scope}});
        let token = issuer.mint(&claims["header"], &claims["baseline"], &change);
        let verified = verifier.verify(&token, &issuer, NOW).unwrap();
        let decision = verified.authorize(&"read".parse().unwrap(), "/f");
        assert_eq!(
            decision.allowed, expected,
            "{subject} {scope}: {}",
            decision.reason
        );
    }
}

#[test]
fn condor_levels_follow_scitokens_cpp() {
    for (scopes, expected) in [
        ("compute.read", "READ"),
        ("compute.create", ""),
        ("compute.create compute.modify compute.cancel", "WRITE READ"),
        ("condor:/WRITE", "WRITE READ"),
        (
            "condor:/READ condor:/ADVERTISE_STARTD",
            "READ ADVERTISE_STARTD",
        ),
        ("compute.read:/x", ""),
    ] {
        assert_eq!(
            Scopes::parse(scopes, Language::Wlcg)
                .unwrap()
                .condor_levels()
                .join(" "),
            expected,
            "{scopes}"
        );
    }
    let scitoken = Scopes::parse("compute.read condor:/READ", Language::SciTokens).unwrap();
    assert_eq!(scitoken.condor_levels(), ["READ"]);
    assert!(
        Scopes::parse("compute.read", Language::SciTokens)
            .unwrap()
            .condor_levels()
            .is_empty()
    );
}

fn group_list(value: &Value) -> Vec<Group> {
    texts(value)
        .iter()
        .map(|name| name.parse().unwrap())
        .collect()
}

#[test]
fn group_selection() {
    let file = load("group-selection.json");
    let membership = Membership {
        default_groups: group_list(&file["default"]),
        optional_groups: group_list(&file["optional"]),
        capability_sets: Vec::new(),
    };
    each(&file, |row| {
        let found = select::groups(row["requested"].as_str().unwrap(), &membership);
        match &row["expected"] {
            Value::String(code) => same(
                "the error",
                found.err().map(|e| e.code().to_owned()),
                Some(code.clone()),
            ),
            Value::Null => same("the groups", found, Ok(None)),
            list => same("the groups", found, Ok(Some(group_list(list)))),
        }
    });
}

#[test]
fn capability_sets() {
    let file = load("capability-sets.json");
    let sets = file["sets"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(group, scopes)| (group.parse().unwrap(), texts(scopes)));
    let membership = Membership {
        capability_sets: sets.collect(),
        ..Membership::default()
    };
    each(&file, |row| {
        let found = select::capabilities(row["requested"].as_str().unwrap(), &membership, |_| true);
        match row["error"].as_str() {
            Some(code) => same("the error", found.err().map(|e| e.code()), Some(code)),
            None => same(
                "the scopes",
                found.map(|s| s.join(" ")),
                Ok(row["expected"].as_str().unwrap().to_owned()),
            ),
        }
    });
    let refused = select::capabilities(
        "wlcg.capabilityset:/vo storage.modify:/",
        &membership,
        |_| false,
    )
    .unwrap();
    assert_eq!(
        refused.join(" "),
        "storage.read:/vo storage.create:/vo/u/ann"
    );
}
