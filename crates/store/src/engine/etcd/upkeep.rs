//! Upkeep of etcd, which does none by itself: looking at its room, compacting old revisions, defragmenting, ending a full etcd's alarm.
//!
//! Every process looks; one of all, by a lease, does. When etcd is full no lease can be written any more: then the holder of before goes
//! on, and if nothing comes of that the others do. Doing any of it twice is harmless.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::proto::{
    ALARM, AlarmAction, AlarmMember, AlarmRequest, AlarmResponse, AlarmType, COMPACT,
    CompactionRequest, CompactionResponse, Compare, DEFRAGMENT, DefragmentRequest,
    DefragmentResponse, DeleteRangeRequest, RangeRequest, Request, RequestOp, STATUS,
    StatusRequest, StatusResponse, TxnRequest,
};
use super::rpc::Repeat;
use super::trouble::Trouble;
use super::{Shared, layout::end_of};
use crate::StoreError;

const LEASE: &str = "engine/upkeep";
/// How long one member may take to say how it is, and to defragment.
const ASK: Duration = Duration::from_secs(2);
const DEFRAGMENTING: Duration = Duration::from_secs(120);
/// Old revisions are kept so long, for watches that were broken.
const HISTORY: Duration = Duration::from_secs(300);
/// Free room within the file that is worth defragmenting, where it is also half of the file.
const WORTH: u64 = 256 * 1024 * 1024;
/// A member is not defragmented more often, unless room is short.
const DEFRAGMENT_EVERY: Duration = Duration::from_secs(6 * 3600);
/// Between two compactions, and between two tries to make room where the last one gained nothing, unless room is short.
const REST: Duration = Duration::from_secs(60);
/// For how many looks a full etcd is left to the process whose task it is.
const OTHERS: u32 = 12;
/// Keys of processes that ended without taking them out go after this many seconds.
const OLD_SESSION: i64 = 30 * 86_400;

/// etcd's own quota unless told otherwise (`--quota-backend-bytes`).
pub const DEFAULT_QUOTA: u64 = 2 * 1024 * 1024 * 1024;

/// What this program does for etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upkeep {
    /// Whether old revisions are compacted, members defragmented and the alarm of a full etcd ended. All of these concern the whole
    /// etcd, other users of it included.
    pub act: bool,
    /// What etcd's `--quota-backend-bytes` says, in bytes; etcd tells it by itself only from 3.6 on.
    pub quota_bytes: u64,
    /// How often the members are looked at.
    pub every: Duration,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self {
            act: true,
            quota_bytes: DEFAULT_QUOTA,
            every: Duration::from_secs(5),
        }
    }
}

/// How much room there was when it was looked last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    /// Largest file of a member, in bytes, and most that is in use in one.
    size: u64,
    in_use: u64,
    quota: u64,
    alarm: bool,
}

impl Room {
    /// Kept for what must not be lost and for deletions: an etcd whose file reaches its quota takes nothing at all.
    fn reserve(self) -> u64 {
        (self.quota / 16).min(64 * 1024 * 1024)
    }

    fn is_short(self) -> bool {
        self.in_use.saturating_add(self.reserve()) >= self.quota
            || self.size.saturating_add(self.reserve() / 2) >= self.quota
    }

    /// The file is as large as it may become. What is free in it is free for etcd, but its quota does not know.
    fn is_file_large(self) -> bool {
        self.alarm || self.size.saturating_add(self.reserve()) >= self.quota
    }
}

/// What the last look brought.
#[derive(Default)]
pub(crate) struct Looks {
    room: Mutex<Option<Room>>,
}

impl Looks {
    fn room(&self) -> Option<Room> {
        *self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes in the largest member's file.
    pub(crate) fn bytes(&self) -> u64 {
        self.room().map_or(0, |room| room.size)
    }

    pub(crate) fn quota(&self) -> Option<u64> {
        self.room().map(|room| room.quota)
    }

    /// True if what needs room and can be asked for again is to be refused.
    pub(crate) fn is_short(&self) -> bool {
        self.room().is_some_and(Room::is_short)
    }
}

/// A member that has said how it is.
struct Member {
    index: usize,
    status: StatusResponse,
}

/// When which revision was the newest, as far back as revisions are kept. Every process remembers: any may be the next to compact.
#[derive(Default)]
struct History(VecDeque<(Duration, i64)>);

impl History {
    /// Answers the newest revision that need not be kept any longer; 0 if there is none that was not answered before.
    fn note(&mut self, now: Duration, revision: i64) -> i64 {
        self.0.push_back((now, revision));
        let mut over = 0;
        while let Some((at, revision)) = self.0.front().copied()
            && now.saturating_sub(at) >= HISTORY
        {
            over = revision;
            self.0.pop_front();
        }
        over
    }
}

struct Task {
    shared: Arc<Shared>,
    upkeep: Upkeep,
    holder: String,
    /// Fence of the lease, while it is held.
    fence: Option<u64>,
    history: History,
    compacted: i64,
    compacted_at: Option<Duration>,
    defragmented: Option<Duration>,
    full_since: Option<Duration>,
    sessions_cleared: Option<Duration>,
    told: bool,
    /// What went wrong in the last round, which is said once.
    complaint: Option<String>,
}

/// Looks after etcd until the task is ended.
pub(crate) async fn upkeep(shared: Arc<Shared>, upkeep: Upkeep) {
    let holder = shared.session.name();
    let mut task = Task {
        shared,
        upkeep,
        holder,
        fence: None,
        history: History::default(),
        compacted: 0,
        compacted_at: None,
        defragmented: None,
        full_since: None,
        sessions_cleared: None,
        told: false,
        complaint: None,
    };
    loop {
        task.round().await;
        tokio::time::sleep(task.upkeep.every).await;
    }
}

impl Task {
    fn now(&self) -> Duration {
        self.shared.leases.now()
    }

    async fn round(&mut self) {
        let members = self.look().await;
        let Some(room) = self.shared.looks.room() else {
            return;
        };
        let short = room.alarm || room.is_short();
        if short != self.told {
            self.told = short;
            if self.told {
                tracing::warn!(
                    place = self.shared.place,
                    bytes = room.size,
                    in_use = room.in_use,
                    quota = room.quota,
                    "etcd is nearly full: what needs room is refused"
                );
            } else {
                tracing::info!(place = self.shared.place, "etcd has room again");
            }
        }
        if !room.alarm {
            self.full_since = None;
        }
        if !self.upkeep.act {
            return;
        }
        let complaint = self.act(room, &members).await.err();
        if let Some(problem) = &complaint
            && complaint != self.complaint
        {
            tracing::warn!(
                place = self.shared.place,
                problem,
                "the upkeep of etcd did not succeed; it is tried again and again"
            );
        }
        self.complaint = complaint;
    }

    /// Asks all members how they are.
    async fn look(&self) -> Vec<Member> {
        let shared = &self.shared;
        let mut members = Vec::new();
        for index in 0..shared.rpc.members() {
            if let Ok(status) = shared
                .rpc
                .call_member::<_, StatusResponse>(index, STATUS, &StatusRequest {}, ASK)
                .await
            {
                members.push(Member { index, status });
            }
        }
        let alarms = self.alarms().await;
        let largest = |of: fn(&StatusResponse) -> i64| {
            members
                .iter()
                .map(|member| of(&member.status).unsigned_abs())
                .max()
        };
        let (Some(size), Some(in_use), Ok(alarms)) = (
            largest(|status| status.db_size),
            largest(|status| status.db_size_in_use),
            alarms,
        ) else {
            return members;
        };
        let told = members
            .iter()
            .map(|member| member.status.db_size_quota.unsigned_abs())
            .filter(|quota| *quota != 0)
            .min();
        shared.full.store(!alarms.is_empty(), Ordering::Relaxed);
        let room = Room {
            size,
            in_use,
            quota: told.unwrap_or(self.upkeep.quota_bytes),
            alarm: !alarms.is_empty(),
        };
        *shared
            .looks
            .room
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(room);
        members
    }

    /// The members that have found themselves full.
    async fn alarms(&self) -> Result<Vec<AlarmMember>, Trouble> {
        let get = AlarmRequest {
            action: AlarmAction::Get.into(),
            ..AlarmRequest::default()
        };
        let answer: AlarmResponse = self.shared.rpc.call(ALARM, &get, Repeat::WhenLost).await?;
        let mut alarms = answer.alarms;
        alarms.retain(|alarm| alarm.alarm == i32::from(AlarmType::NoSpace));
        Ok(alarms)
    }

    async fn act(&mut self, room: Room, members: &[Member]) -> Result<(), String> {
        let now = self.now();
        let revision = self.shared.revision.load(Ordering::Acquire);
        let mut kept = self.history.note(now, revision);
        if !self.is_ours(room).await {
            return Ok(());
        }
        if room.is_file_large() {
            kept = revision;
        }
        let mut room = room;
        if kept > self.compacted && (room.is_file_large() || self.has_rested(self.compacted_at)) {
            self.compact(kept, room.is_file_large()).await?;
            self.look().await;
            room = self.shared.looks.room().unwrap_or(room);
        }
        if self.is_worth(room, members) {
            self.defragment(members).await?;
        }
        if room.alarm {
            self.end_alarm(room).await?;
        }
        self.clear_sessions().await
    }

    /// Whether the upkeep is this process's task.
    async fn is_ours(&mut self, room: Room) -> bool {
        let now = self.now();
        let ttl = 4 * self.upkeep.every + Duration::from_secs(10);
        let shared = &self.shared;
        let renewed = match self.fence {
            Some(fence) => shared.renew_lease(LEASE, fence, ttl).await,
            None => Ok(false),
        };
        match renewed {
            Ok(true) => return true,
            Ok(false) => self.fence = None,
            Err(_) => {}
        }
        if self.fence.is_none()
            && let Ok(taken) = shared.take_lease(LEASE, &self.holder, ttl).await
        {
            self.fence = taken;
            return taken.is_some();
        }
        // Nothing can be written: who held it last goes on, and the others help out if that one does not.
        let full_since = *self.full_since.get_or_insert(now);
        room.alarm
            && (self.fence.is_some() || now.saturating_sub(full_since) > OTHERS * self.upkeep.every)
    }

    async fn compact(&mut self, revision: i64, physical: bool) -> Result<(), String> {
        let request = CompactionRequest { revision, physical };
        match self
            .shared
            .rpc
            .call::<_, CompactionResponse>(COMPACT, &request, Repeat::WhenLost)
            .await
        {
            // Somebody else has compacted as much.
            Ok(_) | Err(Trouble::Compacted) => {
                self.compacted = revision;
                self.compacted_at = Some(self.now());
                Ok(())
            }
            Err(trouble) => Err(format!("compacting failed: {trouble:?}")),
        }
    }

    /// Defragmenting stops a member for a moment: it is done seldom, and not while another is away.
    ///
    /// What a compaction has freed, etcd says only after its next write, and a full one writes nothing: there it is tried.
    fn is_worth(&self, room: Room, members: &[Member]) -> bool {
        let free = room.size.saturating_sub(room.in_use);
        if room.is_file_large() {
            let untold = self.compacted_at > self.defragmented;
            return free >= room.size / 16
                || (room.alarm && (untold || self.has_rested(self.defragmented)));
        }
        let rested = self
            .defragmented
            .is_none_or(|at| self.now().saturating_sub(at) >= DEFRAGMENT_EVERY);
        free >= WORTH
            && free * 2 >= room.size
            && rested
            && members.len() == self.shared.rpc.members()
    }

    fn has_rested(&self, since: Option<Duration>) -> bool {
        since.is_none_or(|at| self.now().saturating_sub(at) >= REST)
    }

    async fn defragment(&mut self, members: &[Member]) -> Result<(), String> {
        let (leaders, others): (Vec<_>, Vec<_>) = members.iter().partition(|member| {
            let id = member.status.header.as_ref().map(|header| header.member_id);
            id == Some(member.status.leader)
        });
        for member in others.into_iter().chain(leaders) {
            self.shared
                .rpc
                .call_member::<_, DefragmentResponse>(
                    member.index,
                    DEFRAGMENT,
                    &DefragmentRequest {},
                    DEFRAGMENTING,
                )
                .await
                .map_err(|trouble| format!("defragmenting failed: {trouble:?}"))?;
        }
        self.defragmented = Some(self.now());
        Ok(())
    }

    /// Ends the alarm if the files have become small enough for its cause to be gone.
    async fn end_alarm(&mut self, before: Room) -> Result<(), String> {
        self.look().await;
        let Some(room) = self.shared.looks.room() else {
            return Ok(());
        };
        if room.size.saturating_add(room.reserve()) >= room.quota {
            return Err(format!(
                "etcd is full, and nothing more can be compacted away; raise its --quota-backend-bytes, which is {} bytes",
                room.quota
            ));
        }
        for alarm in self
            .alarms()
            .await
            .map_err(|trouble| format!("{trouble:?}"))?
        {
            let disarm = AlarmRequest {
                action: AlarmAction::Deactivate.into(),
                member_id: alarm.member_id,
                alarm: alarm.alarm,
            };
            self.shared
                .rpc
                .call::<_, AlarmResponse>(ALARM, &disarm, Repeat::WhenLost)
                .await
                .map_err(|trouble| format!("the alarm could not be ended: {trouble:?}"))?;
        }
        tracing::info!(
            place = self.shared.place,
            before = before.size,
            bytes = room.size,
            "etcd was full; it was compacted and defragmented, and its alarm is ended"
        );
        self.look().await;
        Ok(())
    }

    /// Takes away the keys of processes that ended long ago without doing so themselves. One that still runs writes its own anew.
    async fn clear_sessions(&mut self) -> Result<(), String> {
        let now = self.now();
        if self
            .sessions_cleared
            .is_some_and(|at| now.saturating_sub(at) < Duration::from_secs(86_400))
        {
            return Ok(());
        }
        let wall = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs().cast_signed());
        let shared = &self.shared;
        let key = shared.layout.note("session/");
        let found = shared
            .range(RangeRequest {
                range_end: end_of(&key),
                limit: 1000,
                ..RangeRequest::one(key)
            })
            .await
            .map_err(|trouble| format!("{trouble:?}"))?;
        for old in found.kvs.into_iter().filter(|found| {
            std::str::from_utf8(&found.value)
                .ok()
                .and_then(|began| began.parse::<i64>().ok())
                .is_some_and(|began| wall.saturating_sub(began) > OLD_SESSION)
        }) {
            let delete = Request::DeleteRange(DeleteRangeRequest::one(old.key.clone()));
            shared
                .transact(TxnRequest {
                    compare: vec![Compare::at(old.key, old.mod_revision)],
                    success: vec![RequestOp::from(delete)],
                    failure: Vec::new(),
                })
                .await
                .map_err(|trouble| format!("{trouble:?}"))?;
        }
        self.sessions_cleared = Some(now);
        Ok(())
    }
}

impl Shared {
    /// Refuses what needs room that is short.
    pub(crate) fn has_room(&self) -> Result<(), StoreError> {
        if self.looks.is_short() {
            return Err(StoreError::QuotaReached {
                place: self.place.clone(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_of_revisions_does_not_grow() {
        let mut history = History::default();
        let (mut kept, mut longest) = (0, 0);
        for second in 0..10_000u32 {
            let over = history.note(Duration::from_secs(second.into()), second.into());
            assert!(over == 0 || over == kept + 1);
            kept = kept.max(over);
            longest = longest.max(history.0.len());
        }
        assert_eq!(kept, 10_000 - 1 - 300);
        assert_eq!(longest, 300);
    }
}
