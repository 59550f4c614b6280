//! The chain: what ties each entry to its place and to everything before it.
//!
//! ```text
//! leaf = SHA-256("xylem.audit.leaf.1\0" || chain || seq || body)
//! hash = SHA-256("xylem.audit.link.1\0" || hash of the entry before || leaf)
//! mac  = HMAC-SHA-256(key, "entry\0" || leaf || hash)
//! head = HMAC-SHA-256(key, "head\0" || chain || seq || hash || checkpoint || time of checkpoint)
//! ```
//!
//! Numbers are 64 bits, big-endian. Everything before the body has a fixed length, so no two lists
//! of parts have the same bytes. The hash before the first entry is that of the chain's id.
//!
//! The hashes alone could be computed again by whoever edits an entry. The MAC of each entry cannot:
//! its key is not where the entries are. So the first entry that was edited can be named, and one
//! entry can be checked without the others.

use crate::{
    Checkpoint, CheckpointPublicKey, Entry, Finding, Hidden, People, Person, Record,
    body::{self, milliseconds},
    checkpoint::{self, CheckpointSigner, Claims},
};
use aws_lc_rs::{constant_time, digest, hmac, rand};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};
use xylem_ids::AuditId;
use xylem_seal::{CipherKey, SubKey};

/// A checkpoint is taken at least every so many entries.
pub const CHECKPOINT_ENTRIES: u64 = 1_000;
/// A checkpoint of entries that have none is taken after so long.
pub const CHECKPOINT_AFTER: Duration = Duration::from_secs(10);

/// Why an entry could not be chained.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The random source, a digest or the signer failed.
    #[error("a cryptographic operation of the audit log failed")]
    Crypto,
    /// The bytes are no key.
    #[error("the audit log's checkpoint key is not an Ed25519 key in PKCS#8 form")]
    NotAKey,
    /// The entry cannot be written as text.
    #[error("the audit entry cannot be written as text")]
    Text(#[source] serde_json::Error),
    /// The key of somebody's personal data is not what was written.
    #[error("the key of somebody's personal data in the audit log is not what was written")]
    Person,
}

macro_rules! bytes {
    ($(#[$doc:meta])* $name:ident($size:literal)) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $name(pub [u8; $size]);

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
            }
        }

        impl Eq for $name {}
    };
}

bytes!(
    /// Which log an entry belongs to: 128 random bits, made with the log. An entry of another log
    /// does not fit in.
    ChainId(16)
);
bytes!(
    /// The hash of an entry and of everything before it.
    Hash(32)
);
bytes!(
    /// A keyed seal. Compared in constant time.
    Mac(32)
);

impl ChainId {
    /// A fresh one.
    ///
    /// # Errors
    /// The system's random source failed.
    pub fn generate() -> Result<Self, ChainError> {
        let mut bytes = [0; 16];
        rand::fill(&mut bytes).map_err(|_| ChainError::Crypto)?;
        Ok(Self(bytes))
    }

    /// What the first entry follows.
    fn origin(&self) -> Hash {
        sha256(b"xylem.audit.chain.1\0", &[&self.0])
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChainId({self})")
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mac")
    }
}

/// The audit log's keys. They do not lie where the entries are. `Debug` shows the id of the
/// checkpoint key.
#[derive(Clone)]
pub struct Keys {
    mac: hmac::Key,
    checkpoint: CheckpointSigner,
    people: Arc<CipherKey>,
}

impl Keys {
    /// From the key that seals entries, the key that keys of personal data are wrapped under, and the
    /// private key that signs checkpoints, in PKCS#8 form.
    ///
    /// # Errors
    /// [`ChainError::NotAKey`].
    pub fn new(
        mac: &[u8; 32],
        people: SubKey,
        checkpoint_pkcs8: &[u8],
    ) -> Result<Self, ChainError> {
        let people = people.into_cipher("audit-people");
        Ok(Self {
            mac: hmac::Key::new(hmac::HMAC_SHA256, mac),
            checkpoint: CheckpointSigner::from_pkcs8(checkpoint_pkcs8)?,
            people: Arc::new(people.map_err(|_| ChainError::NotAKey)?),
        })
    }

    /// What keys of personal data are wrapped under.
    pub(crate) fn people(&self) -> &CipherKey {
        &self.people
    }

    /// The half of the checkpoint key that verifies.
    #[must_use]
    pub fn checkpoint_key(&self) -> &CheckpointPublicKey {
        self.checkpoint.public()
    }

    pub(crate) fn seal(&self, label: &[u8], parts: &[&[u8]]) -> Mac {
        let mut context = hmac::Context::with_key(&self.mac);
        context.update(label);
        for part in parts {
            context.update(part);
        }
        let mut mac = Mac([0; 32]);
        for (to, from) in mac.0.iter_mut().zip(context.sign().as_ref()) {
            *to = *from;
        }
        mac
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("checkpoint", self.checkpoint_key())
            .finish_non_exhaustive()
    }
}

/// Where a log ends, sealed. Written together with the entries it stands behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Which log.
    pub chain: ChainId,
    /// The place of the last entry; 0 in an empty log.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
    /// The entry that the last checkpoint was taken at; 0 before the first.
    pub checkpoint: u64,
    /// When that was, in milliseconds since 1970; when the log was begun before the first.
    pub checkpoint_at: u64,
    /// Covers everything above.
    pub mac: Mac,
}

/// An entry as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its place, counted from 1 without gaps.
    pub seq: u64,
    /// What it says. This text is what is hashed.
    pub body: String,
    /// Ties it to everything before it.
    pub hash: Hash,
    /// Seals it to its place.
    pub mac: Mac,
}

/// The parts of an entry that are stored a second time, to find it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Text columns by name: what [`Index::NAMES`] lists, in that order.
    pub text: [Option<String>; Index::NAMES.len()],
}

impl Index {
    /// The columns that hold text.
    pub const NAMES: [&'static str; 11] = [
        "kind",
        "verdict",
        "namespace",
        "agent",
        "tree_workflow_id",
        "tree_first_run_id",
        "workflow_id",
        "tool",
        "slot",
        "owner",
        "subject",
    ];

    /// What is stored beside this entry.
    #[must_use]
    pub fn of(entry: &Entry) -> Self {
        let tree = entry.tree.as_ref();
        let node = entry.node.as_ref();
        Self {
            at_ms: milliseconds(entry.at),
            text: [
                Some(entry.kind.to_string()),
                Some(entry.verdict.to_string()),
                entry.namespace.as_ref().map(ToString::to_string),
                entry.agent.as_ref().map(ToString::to_string),
                tree.map(|tree| tree.workflow_id.to_string()),
                tree.map(|tree| tree.first_run_id.to_string()),
                node.map(|node| node.workflow_id.to_string()),
                entry.tool.as_ref().map(ToString::to_string),
                entry.slot.as_ref().map(ToString::to_string),
                entry.owner.as_ref().map(ToString::to_string),
                entry.subject.as_ref().map(ToString::to_string),
            ],
        }
    }

    /// The first column that does not say the same.
    fn differs(&self, other: &Self) -> Option<&'static str> {
        if self.at_ms != other.at_ms {
            return Some("at_ms");
        }
        let both = self.text.iter().zip(&other.text);
        let mut named = Self::NAMES.iter().zip(both);
        named.find_map(|(name, (mine, theirs))| (mine != theirs).then_some(*name))
    }
}

/// What is to be stored, in one transaction.
#[derive(Debug, Clone)]
pub struct Written {
    /// The entries, in order.
    pub lines: Vec<(Line, Index)>,
    /// Where the log ends now.
    pub head: Head,
    /// The checkpoint that became due.
    pub checkpoint: Option<Checkpoint>,
}

/// Turns entries into lines of the chain, and lines into entries. There is no I/O and no clock here.
#[derive(Debug, Clone)]
pub struct Scribe {
    pub(crate) keys: Keys,
}

impl Scribe {
    /// With these keys.
    #[must_use]
    pub fn new(keys: Keys) -> Self {
        Self { keys }
    }

    /// The half of the checkpoint key that verifies.
    #[must_use]
    pub fn checkpoint_key(&self) -> &CheckpointPublicKey {
        self.keys.checkpoint_key()
    }

    /// The head of an empty log.
    #[must_use]
    pub fn begin(&self, chain: ChainId, now: SystemTime) -> Head {
        self.sealed(Head {
            chain,
            seq: 0,
            hash: chain.origin(),
            checkpoint: 0,
            checkpoint_at: milliseconds(now),
            mac: Mac([0; 32]),
        })
    }

    /// Whether a stored head is what was written. Nothing may be appended behind one that is not.
    ///
    /// # Errors
    /// [`Finding::Head`].
    pub fn check_head(&self, head: &Head) -> Result<(), Finding> {
        if self.sealed(*head).mac == head.mac {
            Ok(())
        } else {
            Err(Finding::Head)
        }
    }

    /// Chains entries behind a head that was checked, and takes a checkpoint where one is due.
    /// `people` has the key of everybody whose personal data is among them: see [`Person::of`].
    ///
    /// # Errors
    /// A key is missing, an entry cannot be written as text, or a digest or the signer failed.
    pub fn write(
        &self,
        head: &Head,
        entries: &[Entry],
        people: &People,
        now: SystemTime,
    ) -> Result<Written, ChainError> {
        self.chain(head, entries, now, |seq, entry| match Person::of(entry) {
            Some(person) => people.hide(&head.chain, seq, &person, entry).map(Some),
            None => Ok(None),
        })
    }

    pub(crate) fn chain(
        &self,
        head: &Head,
        entries: &[Entry],
        now: SystemTime,
        personal: impl Fn(u64, &Entry) -> Result<Option<(String, String)>, ChainError>,
    ) -> Result<Written, ChainError> {
        let mut next = *head;
        let mut lines = Vec::with_capacity(entries.len());
        for entry in entries {
            next.seq = next.seq.checked_add(1).ok_or(ChainError::Crypto)?;
            let personal = personal(next.seq, entry)?;
            let body = body::encode(entry, personal).map_err(ChainError::Text)?;
            let leaf = leaf(&next.chain, next.seq, &body);
            next.hash = link(&next.hash, &leaf);
            let line = Line {
                seq: next.seq,
                mac: self.entry_mac(&leaf, &next.hash),
                hash: next.hash,
                body,
            };
            lines.push((line, Index::of(entry)));
        }
        let checkpoint = if due(head, &next, now) {
            Some(self.checkpoint(&mut next, now)?)
        } else {
            None
        };
        Ok(Written {
            lines,
            head: self.sealed(next),
            checkpoint,
        })
    }

    /// The entry of a line, where the line is what was written, and what is personal about it: the
    /// record is whole after [`Hidden::reveal`].
    ///
    /// # Errors
    /// Says what was done to it.
    pub fn read(
        &self,
        chain: &ChainId,
        line: &Line,
        index: &Index,
    ) -> Result<(Record, Option<Hidden>), Finding> {
        let seq = line.seq;
        self.check_seal(chain, line)?;
        let unreadable = |body::Unreadable(field)| Finding::Unreadable { seq, field };
        let (entry, personal) = body::decode(&line.body).map_err(unreadable)?;
        if let Some(column) = Index::of(&entry).differs(index) {
            return Err(Finding::Index { seq, column });
        }
        let hidden = personal.map(|personal| Hidden::read(chain, seq, &entry, personal));
        let hidden = hidden.transpose().map_err(unreadable)?;
        let record = Record {
            id: id(seq).ok_or(Finding::Changed { seq })?,
            entry,
            erased: false,
        };
        Ok((record, hidden))
    }

    /// Whether a line follows the hash before it.
    pub(crate) fn follows(&self, chain: &ChainId, before: &Hash, line: &Line) -> bool {
        link(before, &leaf(chain, line.seq, &line.body)) == line.hash
    }

    #[cfg(test)]
    pub(crate) fn hash_after(&self, head: &Head, body: &str) -> Hash {
        link(&head.hash, &leaf(&head.chain, head.seq + 1, body))
    }

    fn check_seal(&self, chain: &ChainId, line: &Line) -> Result<(), Finding> {
        if self.is_sealed_at(chain, line, line.seq) {
            Ok(())
        } else {
            Err(Finding::Changed { seq: line.seq })
        }
    }

    /// Whether this is the line that was written at a place.
    pub(crate) fn is_sealed_at(&self, chain: &ChainId, line: &Line, seq: u64) -> bool {
        self.entry_mac(&leaf(chain, seq, &line.body), &line.hash) == line.mac
    }

    fn entry_mac(&self, leaf: &Hash, hash: &Hash) -> Mac {
        self.keys.seal(b"entry\0", &[&leaf.0, &hash.0])
    }

    fn sealed(&self, mut head: Head) -> Head {
        head.mac = self.keys.seal(
            b"head\0",
            &[
                &head.chain.0,
                &head.seq.to_be_bytes(),
                &head.hash.0,
                &head.checkpoint.to_be_bytes(),
                &head.checkpoint_at.to_be_bytes(),
            ],
        );
        head
    }

    fn checkpoint(&self, head: &mut Head, now: SystemTime) -> Result<Checkpoint, ChainError> {
        let at = milliseconds(now);
        let claims = Claims {
            chain: head.chain.to_string(),
            seq: head.seq,
            hash: head.hash.to_string(),
            at,
            prev: head.checkpoint,
        };
        head.checkpoint = head.seq;
        head.checkpoint_at = at;
        Ok(Checkpoint {
            seq: head.seq,
            at_ms: at,
            signed: checkpoint::sign(&self.keys.checkpoint, &claims)?,
        })
    }
}

/// Whether entries that no checkpoint covers have waited long enough, or are many enough. A clock
/// that was set back does not put a checkpoint off.
fn due(before: &Head, after: &Head, now: SystemTime) -> bool {
    if after.seq == after.checkpoint {
        return false;
    }
    let now = milliseconds(now);
    let many = before.seq / CHECKPOINT_ENTRIES != after.seq / CHECKPOINT_ENTRIES;
    let waited = now.checked_sub(after.checkpoint_at);
    many || waited.is_none_or(|ms| u128::from(ms) >= CHECKPOINT_AFTER.as_millis())
}

/// The id of the entry at a place.
fn id(seq: u64) -> Option<AuditId> {
    seq.to_string().parse().ok()
}

pub(crate) fn leaf(chain: &ChainId, seq: u64, body: &str) -> Hash {
    sha256(
        b"xylem.audit.leaf.1\0",
        &[&chain.0, &seq.to_be_bytes(), body.as_bytes()],
    )
}

pub(crate) fn link(before: &Hash, leaf: &Hash) -> Hash {
    sha256(b"xylem.audit.link.1\0", &[&before.0, &leaf.0])
}

fn sha256(label: &[u8], parts: &[&[u8]]) -> Hash {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(label);
    for part in parts {
        context.update(part);
    }
    let mut hash = Hash([0; 32]);
    for (to, from) in hash.0.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Stored, at, bare, early, full, keys};

    /// Hash and MAC of three entries, under a fixed key and chain.
    const GOLDEN_LINES: [&str; 3] = [
        "398db00162c9eb67c5a4eb2930caf07c7bdb3d13422b8ae68fc200f3acb4bbf0 36268cfc214b55f92d47624d887c3779d53826dea500491653e9810398a8fc83",
        "500e5b344ceaca48c2bbf3cdb3dcbf06a7724b675d348ddbf6b9a21789bedb6f 069226f8b145a1e9089b3767e9029bc050166267792f3dcc5290d0b2cce0f326",
        "bf4465820eec8bb9ed236def7924e6eba0de1db58c11c8e03a577f9d10265b59 2084d241b81eefd2b0370bba7f84c34114abb4a754ce6bf224483539565b3832",
    ];
    const GOLDEN_HEAD: &str = "58793942d4a5338f83cd16c349a4301bb144750173c45428614afe84ba1a3704";
    const GOLDEN_CHECKPOINT: &str = "eyJ0eXAiOiJ4eWxlbS1hdWRpdC1jaGVja3BvaW50K2p3dCIsImFsZyI6IkVkRFNBIiwia2lkIjoiSWY0eDM2RlVvbUZpYV9oVSJ9.eyJjaGFpbiI6IjAzMDMwMzAzMDMwMzAzMDMwMzAzMDMwMzAzMDMwMzAzIiwic2VxIjozLCJoYXNoIjoiYmY0NDY1ODIwZWVjOGJiOWVkMjM2ZGVmNzkyNGU2ZWJhMGRlMWRiNThjMTFjOGUwM2E1NzdmOWQxMDI2NWI1OSIsImF0IjoxMTAwNywicHJldiI6MH0.z4_Gg8IIz51FBMV6Fqk4qyUdUgAWBwE59F-hWgcbztgPsq5u1Suf3neO54npmc0lv_yh8RYA8Lyy7tzjCcyQCg";

    #[test]
    fn a_line_reads_back_and_an_edited_one_does_not() {
        let mut stored = Stored::with(0);
        stored.append(&[full()], at(1));
        let (line, index) = &stored.lines[0];
        let chain = &stored.head.chain;
        let read = |line: &Line, index: &Index| stored.scribe.read(chain, line, index);
        assert_eq!(read(line, index).unwrap().0.entry, full());

        let mut edited = line.clone();
        edited.body = edited.body.replace("worker", "nobody");
        assert_eq!(read(&edited, index), Err(Finding::Changed { seq: 1 }));
        for at in 0..Index::NAMES.len() {
            let mut other = index.clone();
            other.text[at] = Some("else".into());
            let column = Index::NAMES[at];
            assert_eq!(read(line, &other), Err(Finding::Index { seq: 1, column }));
        }
        let mut later = index.clone();
        later.at_ms += 1;
        let column = "at_ms";
        assert_eq!(read(line, &later), Err(Finding::Index { seq: 1, column }));
    }

    #[test]
    fn every_part_of_a_head_is_sealed() {
        let stored = Stored::with(3);
        let check = |change: fn(&mut Head)| {
            let mut head = stored.head;
            change(&mut head);
            stored.scribe.check_head(&head)
        };
        assert_eq!(check(|_| {}), Ok(()));
        for change in [
            (|head| head.chain.0[0] ^= 1) as fn(&mut Head),
            |head| head.seq -= 1,
            |head| head.hash.0[0] ^= 1,
            |head| head.checkpoint += 1,
            |head| head.checkpoint_at += 1,
            |head| head.mac.0[0] ^= 1,
        ] {
            assert_eq!(check(change), Err(Finding::Head));
        }
    }

    #[test]
    fn checkpoints_come_after_ten_seconds_or_a_thousand_entries() {
        let mut stored = Stored::with(0);
        stored.append(&[bare(1)], at(9));
        assert!(stored.table.is_empty(), "nine seconds after its begin");
        stored.append(&[], at(10));
        assert_eq!(stored.head.checkpoint, 1);
        stored.append(&[], at(60));
        assert_eq!(stored.table.len(), 1, "nothing is new");
        stored.append(&vec![bare(1); 998], at(11));
        assert_eq!(stored.head.checkpoint, 1);
        stored.append(&[bare(1)], at(11));
        assert_eq!(stored.head.checkpoint, 1_000);
        stored.append(&[bare(1)], at(5));
        assert_eq!(stored.head.checkpoint, 1_001, "the clock was set back");
    }

    #[test]
    fn the_formats_are_frozen() {
        let mut stored = Stored::with(0);
        stored.append(&[early(), bare(2), bare(3)], at(11));
        let lines: Vec<_> = stored
            .lines
            .iter()
            .map(|(line, _)| format!("{} {}", line.hash, hex::encode(line.mac.0)))
            .collect();
        assert_eq!(lines, GOLDEN_LINES);
        assert_eq!(hex::encode(stored.head.mac.0), GOLDEN_HEAD);
        assert_eq!(stored.table[0].signed, GOLDEN_CHECKPOINT);
    }

    #[test]
    fn debug_shows_no_key() {
        let shown = format!("{:?} {:?}", keys(), Mac([7; 32]));
        assert!(shown.contains("CheckpointPublicKey("), "{shown}");
        assert!(!shown.contains("07"), "{shown}");
    }
}
