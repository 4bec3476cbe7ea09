//! A transaction of ours as one of etcd's, and what etcd's answer says of ours.
//!
//! Guards are comparisons of revisions. Where they fail, the same request brings the revisions that were found, so that the guard that
//! failed is known and was judged in the same moment. etcd allows 128 operations in a transaction unless told otherwise, and more in
//! transactions nested in it: what is written goes there where it is too much.

use super::hints::{Hint, Hints};
use super::layout::{Head, Layout, bucket};
use super::proto::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, Request, RequestOp, Response,
    ResponseOp, TxnRequest, TxnResponse,
};
use crate::engine::{RawGuard, RawTransaction};

/// etcd's own limit unless told otherwise (`--max-txn-ops`). One that nests counts along with those it nests.
const MAX_OPERATIONS: usize = 128;
/// Operations in a nested transaction, where few comparisons leave room.
const NESTED: usize = 96;
/// A revision that no key is ever at.
const NEVER: i64 = -1;

/// A request, and what of its answer matters.
pub(crate) struct Plan {
    pub(crate) request: TxnRequest,
    /// For each operation that writes: whether it deletes an entry.
    deletes_entry: Vec<bool>,
}

/// What etcd found where the comparisons failed.
pub(crate) struct Found {
    /// Of the session's key.
    pub(crate) session: i64,
    /// Of the guards' keys.
    pub(crate) guards: Vec<i64>,
}

/// Which revision a guard wants its key to be at; `offset` is by how much versions are greater than revisions.
pub(crate) fn wanted(guard: &RawGuard, hints: &Hints, offset: u64) -> i64 {
    match guard {
        RawGuard::Absent(_) => 0,
        RawGuard::At(key, version) => match hints.get(key) {
            Some(hint) if hint.version == *version => hint.revision,
            _ => version
                .checked_sub(offset)
                .and_then(|revision| i64::try_from(revision).ok())
                .filter(|revision| *revision != 0)
                .unwrap_or(NEVER),
        },
    }
}

/// Key and version of an entry that is guarded.
pub(crate) fn guarded_version(transaction: &RawTransaction, key: &[u8]) -> Option<u64> {
    transaction.guards.iter().find_map(|guard| match guard {
        RawGuard::At(guarded, version) if guarded == key => Some(*version),
        _ => None,
    })
}

/// The version that a put is to have, where it is not the commit's.
fn given_version(transaction: &RawTransaction, put: usize) -> Option<u64> {
    transaction.copied_version(put).or_else(|| {
        let put = transaction.puts.get(put).filter(|put| put.keep_version)?;
        guarded_version(transaction, &put.key)
    })
}

impl Plan {
    /// `wanted` are the revisions that the guards' keys are to be at; `session` is the process's own key and its revision.
    pub(crate) fn new(
        layout: &Layout,
        hints: &Hints,
        transaction: &RawTransaction,
        wanted: &[i64],
        session: (&[u8], i64),
    ) -> Self {
        let mut compare = vec![Compare::at(session.0.to_vec(), session.1)];
        let found = |key: Vec<u8>| {
            RequestOp::from(Request::Range(RangeRequest {
                keys_only: true,
                ..RangeRequest::one(key)
            }))
        };
        let mut failure = vec![found(session.0.to_vec())];
        for (guard, revision) in transaction.guards.iter().zip(wanted) {
            let (RawGuard::Absent(key) | RawGuard::At(key, _)) = guard;
            compare.push(Compare::at(layout.entry(key), *revision));
            failure.push(found(layout.entry(key)));
        }
        let mut writes = Vec::new();
        let mut deletes_entry = Vec::new();
        let mut write = |request: Request, deletes: bool| {
            writes.push(RequestOp::from(request));
            deletes_entry.push(deletes);
        };
        let delete = |key| Request::DeleteRange(DeleteRangeRequest::one(key));
        for (n, put) in transaction.puts.iter().enumerate() {
            let head = Head {
                version: given_version(transaction, n),
                expires_at: put.expires_at,
            };
            write(
                Request::Put(PutRequest {
                    key: layout.entry(&put.key),
                    value: head.before(&put.value),
                    prev_kv: false,
                }),
                false,
            );
            let before = hints.get(&put.key).and_then(|hint| hint.expires_at);
            if let Some(before) = before
                && put.expires_at.map(bucket) != Some(bucket(before))
            {
                write(delete(layout.index(before, &put.key)), false);
            }
            if let Some(expires_at) = put.expires_at {
                write(
                    Request::Put(PutRequest {
                        key: layout.index(expires_at, &put.key),
                        value: head.before(b""),
                        prev_kv: false,
                    }),
                    false,
                );
            }
        }
        for key in &transaction.deletes {
            write(delete(layout.entry(key)), true);
            if let Some(before) = hints.get(key).and_then(|hint| hint.expires_at) {
                write(delete(layout.index(before, key)), false);
            }
        }
        let room = MAX_OPERATIONS.saturating_sub(compare.len());
        let success = if writes.len() <= MAX_OPERATIONS {
            writes
        } else {
            writes
                .chunks(room.clamp(1, NESTED))
                .map(|chunk| {
                    RequestOp::from(Request::Txn(TxnRequest {
                        success: chunk.to_vec(),
                        ..TxnRequest::default()
                    }))
                })
                .collect()
        };
        Self {
            request: TxnRequest {
                compare,
                success,
                failure,
            },
            deletes_entry,
        }
    }

    /// Whether an answer says that an entry was deleted.
    pub(crate) fn has_deleted(&self, answer: TxnResponse) -> bool {
        flatten(answer.responses)
            .zip(&self.deletes_entry)
            .any(|(response, deletes)| {
                *deletes && matches!(response, Response::DeleteRange(done) if done.deleted > 0)
            })
    }
}

fn flatten(responses: Vec<ResponseOp>) -> Box<dyn Iterator<Item = Response>> {
    Box::new(
        responses
            .into_iter()
            .filter_map(|operation| operation.response)
            .flat_map(|response| match response {
                Response::Txn(nested) => flatten(nested.responses),
                other => Box::new(std::iter::once(other)),
            }),
    )
}

impl Found {
    /// Of an answer that says that a comparison failed.
    pub(crate) fn of(answer: TxnResponse) -> Self {
        let mut revisions = answer.responses.into_iter().map(|operation| {
            operation
                .range()
                .and_then(|found| found.kvs.into_iter().next())
                .map_or(0, |found| found.mod_revision)
        });
        Self {
            session: revisions.next().unwrap_or_default(),
            guards: revisions.collect(),
        }
    }
}

/// Remembers what a transaction that was committed at `revision` and as `version` has written.
pub(crate) fn remember(hints: &Hints, transaction: &RawTransaction, revision: i64, version: u64) {
    for (n, put) in transaction.puts.iter().enumerate() {
        hints.note(
            &put.key,
            Hint {
                version: given_version(transaction, n).unwrap_or(version),
                revision,
                expires_at: put.expires_at,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::RawPut;

    /// What etcd judges a request by (`checkTxnRequest`).
    fn fits(request: &TxnRequest, limit: usize) -> bool {
        let count = request
            .compare
            .len()
            .max(request.success.len())
            .max(request.failure.len());
        count <= limit
            && request
                .success
                .iter()
                .all(|operation| match &operation.request {
                    Some(Request::Txn(nested)) => fits(nested, limit - count),
                    _ => true,
                })
    }

    #[test]
    fn the_largest_transactions_fit() {
        let layout = Layout::new("p/");
        for guards in [0, 1, 50, 101] {
            for (puts, deletes) in [(100, 0), (0, 100), (50, 50), (1, 0)] {
                let hints = Hints::default();
                let key = |n: usize| n.to_string().into_bytes();
                for n in 0..200 {
                    let hint = Hint {
                        version: 1,
                        revision: 1,
                        expires_at: Some(1),
                    };
                    hints.note(&key(n), hint);
                }
                let transaction = RawTransaction {
                    guards: (0..guards).map(|n| RawGuard::Absent(key(n))).collect(),
                    puts: (0..puts)
                        .map(|n| RawPut {
                            key: key(n),
                            value: vec![1],
                            expires_at: Some(1000),
                            keep_version: false,
                        })
                        .collect(),
                    deletes: (puts..puts + deletes).map(key).collect(),
                    ..RawTransaction::default()
                };
                let plan = Plan::new(&layout, &hints, &transaction, &vec![0; guards], (b"s", 1));
                assert!(
                    fits(&plan.request, MAX_OPERATIONS),
                    "{guards} {puts} {deletes}"
                );
                assert_eq!(plan.deletes_entry.len(), 3 * puts + 2 * deletes);
            }
        }
    }
}
