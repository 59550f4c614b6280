//! Entries and a log in memory, for the tests of this room.

use crate::{
    Activity, ChainId, Checkpoint, Entry, Head, Index, Keys, Kind, Label, Line, NodeRun, Note,
    Reason, Scribe, Subject, SubjectKind, Verdict,
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use xylem_ids::{Epoch, Order, Serial, TreeId, Version};
use xylem_seal::SubKey;

/// An Ed25519 private key in PKCS#8 form: the seed of RFC 8032, section 7.1, test 1.
const PKCS8: &str = "302e020100300506032b6570042204209d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";

pub(crate) fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(second * 1000 + 7)
}

pub(crate) fn bare(second: u64) -> Entry {
    Entry::new(at(second), Kind::AgentCreated, Verdict::Succeeded)
}

/// With every part that the first entries had.
pub(crate) fn early() -> Entry {
    let tree = TreeId {
        namespace: "default".parse().unwrap(),
        workflow_id: "train".parse().unwrap(),
        first_run_id: "run-1".parse().unwrap(),
    };
    let mut entry = Entry::new(at(1), Kind::Outcome, Verdict::Failed)
        .by(&"worker".parse().unwrap())
        .of_tree(&tree)
        .because("refused_401");
    entry.node = Some(NodeRun {
        workflow_id: "leaf".parse().unwrap(),
        run_id: Some("run-2".parse().unwrap()),
    });
    entry.activity = Activity::new("7", 3);
    entry.tool = Some("acme.deploy".parse().unwrap());
    entry.slot = Some("default".parse().unwrap());
    entry.order = Some(Order {
        epoch: Epoch(1),
        version: Version(2),
        serial: Serial(3),
    });
    entry.fingerprint = Some("0123456789abcdef".parse().unwrap());
    entry.lease = Some("lease-1".parse().unwrap());
    entry.note = Note::new("leaked in build 7");
    entry.status = Some(401);
    entry.duration_ms = Some(12);
    entry.count = 9;
    entry
}

/// With every part that an entry has.
pub(crate) fn full() -> Entry {
    let mut entry = early();
    entry.owner = Some("svc-7".parse().unwrap());
    entry.subject = Some(Subject::new(SubjectKind::Tool, "acme.deploy"));
    entry.address = Some("192.0.2.7".parse().unwrap());
    entry.request = Label::new("c0ffee");
    entry.second_factor = true;
    entry.presented = Some(Order {
        epoch: Epoch(1),
        version: Version(1),
        serial: Serial(1),
    });
    entry.behind_s = Some(601);
    entry.policy = Label::new("deploys");
    entry.bytes_out = Some(512);
    entry.bytes_in = Some(2048);
    entry.numbers = [(Reason::of("denials"), 10), (Reason::of("window_s"), 60)].into();
    entry.about = Some((3, 8));
    entry
}

pub(crate) fn keys() -> Keys {
    let people = SubKey::from_secret(&[7; 32], "people").unwrap();
    Keys::new(&[7; 32], people, &hex::decode(PKCS8).unwrap()).unwrap()
}

/// Everything that lies in storage.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) scribe: Scribe,
    pub(crate) head: Head,
    pub(crate) lines: Vec<(Line, Index)>,
    pub(crate) table: Vec<Checkpoint>,
    pub(crate) file: Vec<String>,
    /// The last checkpoint that was written to the file.
    pub(crate) written: u64,
}

impl Stored {
    /// A log with so many entries, one a second: with a checkpoint every ten of them.
    pub(crate) fn with(entries: u64) -> Self {
        Self::of_chain(ChainId([3; 16]), entries)
    }

    pub(crate) fn of_chain(chain: ChainId, entries: u64) -> Self {
        let scribe = Scribe::new(keys());
        let mut stored = Self {
            head: scribe.begin(chain, at(0)),
            scribe,
            lines: Vec::new(),
            table: Vec::new(),
            file: Vec::new(),
            written: 0,
        };
        for second in 1..=entries {
            stored.append(&[bare(second)], at(second));
        }
        stored
    }

    /// Appends as it was done before anything was personal: in the clear, the same at each run.
    pub(crate) fn append(&mut self, entries: &[Entry], now: SystemTime) {
        let written = self.scribe.chain(&self.head, entries, now, |_, _| Ok(None));
        let written = written.unwrap();
        self.head = written.head;
        self.lines.extend(written.lines);
        if let Some(checkpoint) = written.checkpoint {
            self.written = checkpoint.seq;
            self.file.push(checkpoint.signed.clone());
            self.table.push(checkpoint);
        }
    }
}
