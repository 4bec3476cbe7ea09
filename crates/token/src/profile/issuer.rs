//! What a relying party configures for one issuer.

use super::Profile;
use crate::group::Group;
use crate::scope::{AreaPath, Scopes, StorageRight};
use crate::time::Seconds;

/// The profiles accepted from an issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profiles {
    /// WLCG 1.x.
    pub wlcg: bool,
    /// SciTokens 1.0 and 2.0.
    pub scitokens: bool,
    /// RFC 9068 access tokens without a grid profile.
    pub access_token: bool,
}

impl Profiles {
    /// WLCG only, the default.
    pub const WLCG: Self = Self {
        wlcg: true,
        scitokens: false,
        access_token: false,
    };
    /// SciTokens only.
    pub const SCITOKENS: Self = Self {
        wlcg: false,
        scitokens: true,
        access_token: false,
    };
    /// Everything.
    pub const ALL: Self = Self {
        wlcg: true,
        scitokens: true,
        access_token: true,
    };

    pub(crate) fn accept(self, profile: Profile) -> bool {
        match profile {
            Profile::Wlcg => self.wlcg,
            Profile::SciTokens1 | Profile::SciTokens2 => self.scitokens,
            Profile::AccessToken => self.access_token,
        }
    }
}

/// What members of a group may do here, in the words of capabilities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRule {
    /// The group, compared exactly.
    pub group: Group,
    /// Its rights, for example `storage.modify:/`.
    pub rights: Scopes,
}

/// What a service may do here, by its subject; counts only in tokens with `host.auth`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectRule {
    /// The subject, compared exactly.
    pub subject: String,
    /// Its rights.
    pub rights: Scopes,
}

/// An issuer, what it may say, and what that means here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedIssuer {
    /// Compared byte for byte with `iss`; a trailing slash matters.
    pub issuer: String,
    /// Which profiles are accepted from it.
    pub profiles: Profiles,
    /// The issuer's areas: `/` in a scope means each of these. None means the whole name space.
    pub base_paths: Vec<AreaPath>,
    /// Rights of groups.
    pub groups: Vec<GroupRule>,
    /// Rights of hosts and services.
    pub subjects: Vec<SubjectRule>,
    /// Rights that allow listing a directory; the profile leaves that open, so none unless configured.
    pub listing: Vec<StorageRight>,
    /// Refuse tokens whose `exp - iat` is longer.
    pub max_lifetime: Option<Seconds>,
    /// Refuse the profile's "any" audience.
    pub refuse_any_audience: bool,
}

impl TrustedIssuer {
    /// An issuer of WLCG tokens, with the whole name space as its area and no rules.
    #[must_use]
    pub fn wlcg(issuer: &str) -> Self {
        Self {
            issuer: issuer.to_owned(),
            profiles: Profiles::WLCG,
            base_paths: Vec::new(),
            groups: Vec::new(),
            subjects: Vec::new(),
            listing: Vec::new(),
            max_lifetime: None,
            refuse_any_audience: false,
        }
    }

    /// An issuer of SciTokens.
    #[must_use]
    pub fn scitokens(issuer: &str) -> Self {
        Self {
            profiles: Profiles::SCITOKENS,
            ..Self::wlcg(issuer)
        }
    }

    /// With these profiles.
    #[must_use]
    pub fn with_profiles(self, profiles: Profiles) -> Self {
        Self { profiles, ..self }
    }

    /// With one more area.
    #[must_use]
    pub fn with_base_path(mut self, path: AreaPath) -> Self {
        self.base_paths.push(path);
        self
    }
}
