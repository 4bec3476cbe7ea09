//! What a call of etcd fails by: whether it may be sent again, and how much it tells of why nothing came back.

use crate::{Outcome, Remedy, StoreError};

/// Why a call brought no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nobody took the request, or whoever took it has refused it before doing anything: it may be sent again.
    NotDone(Cause),
    /// Whether the request was carried out is not known.
    Lost(Cause),
    /// The database of etcd has reached its quota.
    NoSpace,
    /// The revision asked for has been compacted away.
    Compacted,
    /// etcd will refuse this for ever: no permission, or a request it does not understand.
    Refused(Cause),
}

/// How much an error tells of why nothing comes back, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tells {
    /// Nobody was asked.
    Nothing,
    /// Something else has ended it.
    Cancelled,
    /// Time was over.
    Late,
    /// No connection came about, or it broke.
    Unreachable,
    /// etcd has answered with an error.
    Answer,
    /// One of the two sides refuses the certificate of the other, or a file of ours can not be used.
    Tls,
    /// etcd has answered that it has no leader: its other members are away, whatever else is wrong with one.
    NoLeader,
}

/// What a member failed by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) member: String,
    pub(crate) what: String,
    pub(crate) tells: Tells,
}

impl Cause {
    pub(crate) fn new(member: &str, tells: Tells, what: impl Into<String>) -> Self {
        Self {
            member: member.to_owned(),
            what: what.into(),
            tells,
        }
    }

    pub(crate) fn nobody() -> Self {
        Self::new("", Tells::Nothing, "no endpoint is configured")
    }

    fn remedy(&self) -> Remedy {
        match self.tells {
            Tells::Tls => Remedy::Tls,
            Tells::NoLeader => Remedy::Leader,
            _ => Remedy::Members,
        }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.member.is_empty() {
            return f.write_str(&self.what);
        }
        write!(f, "{}: {}", self.member, self.what)
    }
}

impl Trouble {
    /// This one after an earlier one of the same call. It tells what tells most, so that the last member, which had only a moment left,
    /// does not hide why the others failed; and what may have been carried out once stays so.
    pub(crate) fn after(self, earlier: Self) -> Self {
        let lost = matches!(self, Self::Lost(_)) || matches!(earlier, Self::Lost(_));
        match (earlier, self) {
            (Self::NotDone(before) | Self::Lost(before), Self::NotDone(now) | Self::Lost(now)) => {
                let cause = if now.tells > before.tells {
                    now
                } else {
                    before
                };
                if lost {
                    Self::Lost(cause)
                } else {
                    Self::NotDone(cause)
                }
            }
            (_, definite) => definite,
        }
    }

    pub(crate) fn into_error(self, place: &str) -> StoreError {
        let (cause, outcome, remedy) = match self {
            Self::NotDone(cause) => (cause.to_string(), Outcome::NotApplied, cause.remedy()),
            Self::Lost(cause) => (cause.to_string(), Outcome::Unknown, cause.remedy()),
            Self::NoSpace => {
                return StoreError::QuotaReached {
                    place: place.to_owned(),
                };
            }
            Self::Compacted => (
                "what was read has been compacted away meanwhile".to_owned(),
                Outcome::NotApplied,
                Remedy::Wait,
            ),
            Self::Refused(cause) => (cause.to_string(), Outcome::NotApplied, Remedy::Rights),
        };
        StoreError::Unavailable {
            cause: format!("{place}: {cause}"),
            outcome,
            remedy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(tells: Tells, what: &str) -> Cause {
        Cause::new("https://etcd1:2379", tells, what)
    }

    #[test]
    fn the_last_member_with_a_moment_left_does_not_hide_why_the_others_failed() {
        let tls = Trouble::NotDone(cause(Tells::Tls, "it wants a certificate"));
        let late = Trouble::Lost(cause(Tells::Late, "it did not answer within 3 ms"));
        let cancelled = Trouble::NotDone(cause(Tells::Cancelled, "operation was canceled"));
        let told = cancelled
            .after(late.after(tls))
            .into_error("etcd")
            .to_string();
        assert!(
            told.contains("https://etcd1:2379: it wants a certificate"),
            "{told}"
        );
        // One of them may have carried it out.
        assert!(told.contains(&Outcome::Unknown.to_string()), "{told}");
        assert!(told.contains("does not pass by itself"), "{told}");
        let of_two =
            |first: Trouble, then: Trouble| then.after(first).into_error("etcd").to_string();
        let refused = || Trouble::NotDone(cause(Tells::Answer, "too many requests"));
        let late = |ms: u32| {
            let what = format!("it did not answer within {ms} ms");
            Trouble::NotDone(cause(Tells::Late, &what))
        };
        assert!(of_two(refused(), late(3)).contains("too many requests"));
        assert!(of_two(late(3), refused()).contains("too many requests"));
        assert!(of_two(late(2000), late(3)).contains("2000 ms"));
        assert!(of_two(Trouble::NotDone(Cause::nobody()), late(3)).contains("3 ms"));
        assert_eq!(Trouble::NoSpace.after(late(3)), Trouble::NoSpace);
    }

    #[test]
    fn an_error_of_etcd_points_at_etcd() {
        let told = |tells| {
            Trouble::NotDone(cause(tells, "said"))
                .into_error("etcd")
                .to_string()
        };
        for tells in [Tells::Late, Tells::NoLeader, Tells::Tls] {
            assert!(!told(tells).contains("kernel log"), "{}", told(tells));
        }
        assert!(told(Tells::Late).contains("etcdctl endpoint health"));
        assert!(told(Tells::NoLeader).contains("a majority of its members is away"));
        assert!(told(Tells::Tls).contains("gridkeep.store.etcd.tls"));
    }
}
