//! What was read of a database before, and still holds.
//!
//! Agents, keys, tools, policies and approvals are asked for by every request and changed by few. The
//! database has one [`Revision`] of all of them: whatever changes any of them, on whichever instance,
//! replaces it in the same transaction. A request reads the revision once, after it came in, and uses
//! what is in a [`Memory`] only where that was read at this very revision. So a change counts for the
//! next request everywhere, and nothing is good for a while.
//!
//! Whoever remembers rows reads them after the revision that they are remembered at. They may then be
//! newer than it, and are never older.
//!
//! Revisions are compared for equality only, and none comes again. So a database that was put back to
//! an earlier state is not mistaken for a later one. Nothing seals a revision: whoever can write to the
//! database can keep instances from noticing a change that was just made, for as long as nothing else
//! changes. With the same power that change itself could be undone, by putting the row back to what it
//! was, whose seal is right. What a row says cannot be made up either way: seals are checked before
//! anything is remembered.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic
    )
)]

use std::{
    borrow::Borrow,
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{PoisonError, RwLock},
};

/// What all that requests are decided by is at, in one database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revision(i64);

impl Revision {
    /// As the database has it.
    #[must_use]
    pub const fn new(stored: i64) -> Self {
        Self(stored)
    }
}

/// Values that were read at one revision. When there are too many, or there is another revision, all
/// of them are forgotten: each is one look into the database away.
pub struct Memory<K, V> {
    most: usize,
    known: RwLock<Known<K, V>>,
}

struct Known<K, V> {
    at: Option<Revision>,
    weight: usize,
    values: HashMap<K, V>,
}

impl<K: Eq + Hash, V: Clone> Memory<K, V> {
    /// An empty one, for values of so much weight together: how many, or how large.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            most,
            known: RwLock::new(Known {
                at: None,
                weight: 0,
                values: HashMap::new(),
            }),
        }
    }

    /// What was read at this revision.
    pub fn get<Q>(&self, at: Revision, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        (known.at == Some(at))
            .then(|| known.values.get(key).cloned())
            .flatten()
    }

    /// Remembers what was read since the database was at this revision.
    pub fn put(&self, at: Revision, key: K, value: V, weight: usize) {
        if weight > self.most {
            return;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.at != Some(at) || known.weight.saturating_add(weight) > self.most {
            known.at = Some(at);
            known.weight = 0;
            known.values.clear();
        }
        if known.values.insert(key, value).is_none() {
            known.weight = known.weight.saturating_add(weight);
        }
    }
}

/// What is remembered may be secret.
impl<K, V> fmt::Debug for Memory<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Revision = Revision(1);
    const TWO: Revision = Revision(2);

    #[test]
    fn what_was_read_at_another_revision_is_not_known() {
        let memory = Memory::new(10);
        memory.put(ONE, "a", 1, 1);
        assert_eq!(
            (memory.get(ONE, "a"), memory.get(TWO, "a")),
            (Some(1), None)
        );
        memory.put(TWO, "b", 2, 1);
        assert_eq!(
            (memory.get(TWO, "a"), memory.get(TWO, "b")),
            (None, Some(2))
        );
        assert_eq!(memory.get(ONE, "a"), None);
    }

    #[test]
    fn it_keeps_no_more_than_it_may() {
        let memory = Memory::new(10);
        memory.put(ONE, "a", 1, 6);
        memory.put(ONE, "a", 2, 4);
        assert_eq!(memory.get(ONE, "a"), Some(2));
        memory.put(ONE, "too large", 3, 11);
        assert_eq!(
            (memory.get(ONE, "too large"), memory.get(ONE, "a")),
            (None, Some(2))
        );
        memory.put(ONE, "b", 4, 6);
        assert_eq!(
            (memory.get(ONE, "a"), memory.get(ONE, "b")),
            (None, Some(4))
        );
    }
}
