//! What holds while things fail: an answer is true, and what is not known is all or nothing.

use std::collections::BTreeMap;

use super::*;
use crate::testing::XorShift;
use crate::{Outcome, StoreError};

type Model = BTreeMap<usize, String>;

/// Random transactions while `failing(true)` makes the store's ground fail. Every answer is compared with what is found once it
/// has ceased to. Returns how many commits were answered with an error of the store.
///
/// # Panics
/// Where an acknowledged write is missing, a refused one is there, one is torn, or the store does not recover.
pub async fn under_faults(
    store: &Store,
    failing: &(dyn Fn(bool) + Sync),
    seed: u64,
    rounds: usize,
) -> usize {
    let names: Vec<Name> = (0..10).map(|n| name(&n.to_string())).collect();
    let mut random = XorShift::new(seed);
    let mut model = contents(store, &names).await;
    let mut failures = 0;
    for round in 0..rounds {
        let (transaction, after) = step(&mut random, &names, &model, round);
        failing(true);
        let answer = store.commit(transaction).await;
        let seen = store.get_many(&names).await;
        failing(false);
        let found = contents(store, &names).await;
        match answer {
            Ok(_) => assert_eq!(
                found, after,
                "round {round}: what was acknowledged is there"
            ),
            Err(CommitError::Conflict { .. }) => {
                panic!("round {round}: a guard that holds was said not to")
            }
            Err(CommitError::Store(error)) => {
                failures += 1;
                assert!(error.is_temporary(), "round {round}: {error}");
                let unknown = matches!(
                    error,
                    StoreError::Unavailable {
                        outcome: Outcome::Unknown,
                        ..
                    } | StoreError::Vanished { .. }
                );
                assert!(
                    found == model || (unknown && found == after),
                    "round {round}: all or nothing ({error}), and nothing if it says so"
                );
            }
            Err(error) => panic!("round {round}: {error}"),
        }
        match seen {
            Ok(seen) => assert_eq!(
                bodies(seen),
                found,
                "round {round}: what is read while failing is true"
            ),
            Err(error) => assert!(error.is_temporary(), "round {round}: {error}"),
        }
        model = found;
    }
    failures
}

/// A transaction whose guard holds, and what is there after it.
fn step(
    random: &mut XorShift,
    names: &[Name],
    model: &Model,
    round: usize,
) -> (Transaction, Model) {
    let mut after = model.clone();
    let mut transaction = Transaction::new();
    if let Some(free) = (0..names.len()).find(|n| !model.contains_key(n)) {
        transaction.guards.push(absent(&names[free]));
    }
    for (n, name) in names.iter().enumerate() {
        match random.below(6) {
            0 | 1 => {
                let body = format!("{round}-{n}-{}", "x".repeat(random.below(3000) as usize));
                transaction.puts.push((name.clone(), text(&body)));
                after.insert(n, body);
            }
            2 => {
                transaction.deletes.push(name.clone());
                after.remove(&n);
            }
            _ => {}
        }
    }
    (transaction, after)
}

fn bodies(found: Vec<Option<Entry>>) -> Model {
    let text = |entry: Entry| String::from_utf8(entry.record.body.to_vec()).expect("text");
    found
        .into_iter()
        .enumerate()
        .filter_map(|(n, entry)| entry.map(|entry| (n, text(entry))))
        .collect()
}

async fn contents(store: &Store, names: &[Name]) -> Model {
    bodies(
        store
            .get_many(names)
            .await
            .expect("reads once nothing fails any more"),
    )
}
