//! What nobody gets who was not given it by name: the built-in policies with power over others.

use super::issuer::Rotation;
use super::support::*;
use crate::*;

fn by_role(role: &str, policies: &[&str]) -> CreateToken {
    CreateToken {
        role: Some(role.to_owned()),
        policies: Some(policies.iter().map(|&policy| policy.to_owned()).collect()),
        ..CreateToken::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_role_gives_built_in_power_only_by_its_name() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let alice = login(&house, &keeper, "alice").await;
    let alice = bearer(&keeper, &alice.issued.secret).await;
    let texts = |list: &[&str]| -> Vec<String> { list.iter().map(|&text| text.into()).collect() };
    let edit = async |role: &str, allowed: &[&str], globs: &[&str], disallowed: &[&str]| {
        let edited = keeper.edit_token_role(role, |record| {
            record.allowed_policies = texts(allowed);
            record.allowed_policies_glob = texts(globs);
            record.disallowed_policies = texts(disallowed);
        });
        edited.await.unwrap();
    };
    edit("all-but", &[], &[], &["nothing"]).await;
    edit("pattern", &[], &["*"], &[]).await;
    edit("named", &["operator", "robots-dune-0123"], &[], &[]).await;
    for role in ["all-but", "pattern"] {
        for policy in ["operator", "robots-dune-0123"] {
            let asked = by_role(role, &["written", policy]);
            let refused = bad(keeper.create_token(&alice, asked, false).await).to_string();
            assert!(refused.contains(policy), "{refused}");
        }
        // All else is given as before.
        let made = keeper.create_token(&alice, by_role(role, &["written"]), false);
        assert_eq!(made.await.unwrap().token.policies, ["default", "written"]);
        // So is what the parent has itself.
        let operator = operator(&keeper).await;
        let made = keeper.create_token(&operator, by_role(role, &["operator"]), false);
        assert_eq!(made.await.unwrap().token.policies, ["default", "operator"]);
    }
    let asked = by_role("named", &["operator", "robots-dune-0123"]);
    let made = keeper.create_token(&alice, asked, false).await.unwrap();
    assert_eq!(
        made.token.policies,
        ["default", "operator", "robots-dune-0123"]
    );
}
