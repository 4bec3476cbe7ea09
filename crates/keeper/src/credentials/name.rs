//! The name of a credential, as text and as the name of its record.

use crate::database::name;
use crate::failure::BadInput;
use crate::records::CREDENTIAL;

const LONGEST_NAME: usize = 512;

/// The name of a credential: issuer, owner key, role.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CredentialName {
    /// Name of the issuer.
    pub issuer: String,
    /// Whose it is: `alice`, or for a robot `alice/purpose/machine`. Called credkey in the Vault API.
    pub owner: String,
    /// Name of the role.
    pub role: String,
}

impl CredentialName {
    /// Reads `issuer/owner:role`.
    ///
    /// # Errors
    /// [`BadInput::BadName`] when a part is missing or holds what may not be in a path.
    pub fn parse(text: &str) -> Result<CredentialName, BadInput> {
        let bad = || BadInput::BadName {
            name: text.chars().filter(|c| !c.is_control()).take(80).collect(),
        };
        if text.len() > LONGEST_NAME || text.contains(":/") || text.chars().any(char::is_control) {
            return Err(bad());
        }
        let (issuer, rest) = text.split_once('/').ok_or_else(bad)?;
        let (owner, role) = rest.rsplit_once(':').ok_or_else(bad)?;
        let empty_part = owner
            .split('/')
            .any(|part| part.is_empty() || part == "." || part == "..");
        if issuer.is_empty() || role.is_empty() || role.contains('/') || empty_part {
            return Err(bad());
        }
        Ok(CredentialName {
            issuer: issuer.to_owned(),
            owner: owner.to_owned(),
            role: role.to_owned(),
        })
    }

    /// The name that stands in the name of a record.
    pub(crate) fn of_record(name: &gridkeep_store::Name) -> Option<CredentialName> {
        let [issuer, owner, role] = name.parts() else {
            return None;
        };
        let text = |part: &[u8]| String::from_utf8_lossy(part).into_owned();
        Some(CredentialName {
            issuer: text(issuer),
            owner: text(owner),
            role: text(role),
        })
    }

    pub(crate) fn key(&self) -> gridkeep_store::Name {
        name(CREDENTIAL, &[&self.issuer, &self.owner, &self.role])
    }
}

impl std::fmt::Display for CredentialName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}:{}", self.issuer, self.owner, self.role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let name = CredentialName::parse("cms/bob@cern.ch:production").expect("a name");
        assert_eq!(
            (
                name.issuer.as_str(),
                name.owner.as_str(),
                name.role.as_str()
            ),
            ("cms", "bob@cern.ch", "production")
        );
        let robot = CredentialName::parse("dune/dunepro/managedtokens/host.example.org:default")
            .expect("a name");
        assert_eq!(robot.owner, "dunepro/managedtokens/host.example.org");
        for bad in [
            "",
            "dune",
            "dune/",
            "dune/alice",
            "dune/:default",
            "dune/alice:",
            "/alice:default",
            "dune/a//b:r",
            "dune/../b:r",
            "dune/a:/b:r",
            "dune/a\nb:r",
            "dune/a:b/c",
        ] {
            assert!(CredentialName::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_name_survives_its_text(issuer in "[a-z0-9_-]{1,10}", owner in "[a-zA-Z0-9@._-]{1,10}(/[a-z0-9_-]{1,5}){0,2}", role in "[a-z0-9_-]{1,10}") {
            prop_assume!(owner.split('/').all(|part| part != "." && part != ".."));
            let name = CredentialName { issuer, owner, role };
            prop_assert_eq!(CredentialName::parse(&name.to_string()), Ok(name));
        }

        #[test]
        fn arbitrary_text_does_not_panic(text in ".{0,600}") {
            let _ = CredentialName::parse(&text);
        }
    }
}
