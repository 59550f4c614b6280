//! An entry as the text that is stored, chained and read back.

use crate::{Activity, Entry, Kind, Label, NodeRun, Note, Reason, Subject, SubjectKind, Verdict};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    ops::Not,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use xylem_ids::{Epoch, Order, Serial, TreeId, Version};

/// The version of the form below. A reader refuses a version that it does not know, and passes over
/// fields that it does not know.
const VERSION: u32 = 1;

/// Which part of a stored text cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unreadable(pub(crate) &'static str);

/// The form of the text: what is absent is left out. Names and order are part of the format: an
/// entry's hash is that of its text.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Body {
    v: u32,
    /// Milliseconds since 1970.
    at: u64,
    kind: String,
    verdict: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    /// Kind and id.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<(String, String)>,
    /// Whose personal data it holds, and the ciphertext of it: then `addr` and `note` are absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    per: Option<(String, String)>,
    /// In the clear in entries from before they were personal.
    #[serde(skip_serializing_if = "Option::is_none")]
    addr: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    req: Option<String>,
    /// Whether a second factor was shown.
    #[serde(skip_serializing_if = "Not::not")]
    factor: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ns: Option<String>,
    /// The root's workflow id and first run id; its namespace is `ns`.
    #[serde(skip_serializing_if = "Option::is_none")]
    tree: Option<(String, String)>,
    /// Workflow id and run id.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<(String, Option<String>)>,
    /// Activity id and attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    act: Option<(String, u32)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slot: Option<String>,
    /// Epoch, version, serial.
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<(u32, u32, u32)>,
    /// The same of the version that was presented.
    #[serde(skip_serializing_if = "Option::is_none")]
    shown: Option<(u32, u32, u32)>,
    /// For how many seconds that was superseded.
    #[serde(skip_serializing_if = "Option::is_none")]
    behind: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// How long the call took, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    ms: Option<u64>,
    /// How many bytes it sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<u64>,
    /// How many bytes it received.
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    received: Option<u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    num: BTreeMap<String, u64>,
    /// The first and the last entry that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    about: Option<(u64, u64)>,
    n: u64,
}

/// The text of an entry; what is personal stands in it as it is given here.
pub(crate) fn encode(
    entry: &Entry,
    personal: Option<(String, String)>,
) -> Result<String, serde_json::Error> {
    let text = |value: &dyn ToString| value.to_string();
    let clear = personal.is_none();
    serde_json::to_string(&Body {
        v: VERSION,
        at: milliseconds(entry.at),
        kind: entry.kind.code().to_owned(),
        verdict: entry.verdict.code().to_owned(),
        agent: entry.agent.as_ref().map(|agent| text(agent)),
        owner: entry.owner.as_ref().map(|owner| text(owner)),
        subject: entry
            .subject
            .as_ref()
            .map(|subject| (subject.kind.code().to_owned(), text(&subject.id))),
        per: personal,
        addr: entry.address.filter(|_| clear),
        req: entry.request.as_ref().map(|request| text(request)),
        factor: entry.second_factor,
        ns: entry.namespace.as_ref().map(|namespace| text(namespace)),
        tree: entry
            .tree
            .as_ref()
            .map(|tree| (text(&tree.workflow_id), text(&tree.first_run_id))),
        node: entry.node.as_ref().map(|node| {
            let run = node.run_id.as_ref().map(|run| text(run));
            (text(&node.workflow_id), run)
        }),
        act: entry
            .activity
            .as_ref()
            .map(|activity| (activity.id().to_owned(), activity.attempt())),
        tool: entry.tool.as_ref().map(|tool| text(tool)),
        slot: entry.slot.as_ref().map(|slot| text(slot)),
        order: entry.order.map(numbers),
        shown: entry.presented.map(numbers),
        behind: entry.behind_s,
        fp: entry.fingerprint.as_ref().map(|print| text(print)),
        lease: entry.lease.as_ref().map(|lease| text(lease)),
        why: entry.reason.as_ref().map(|reason| text(reason)),
        policy: entry.policy.as_ref().map(|policy| text(policy)),
        note: entry
            .note
            .as_ref()
            .filter(|_| clear)
            .map(|note| note.as_str().to_owned()),
        status: entry.status,
        ms: entry.duration_ms,
        out: entry.bytes_out,
        received: entry.bytes_in,
        num: entry
            .numbers
            .iter()
            .map(|(name, number)| (text(name), *number))
            .collect(),
        about: entry.about,
        n: entry.count,
    })
}

/// The entry that a text says, and what is personal about it, as it stands there.
pub(crate) fn decode(text: &str) -> Result<(Entry, Option<(String, String)>), Unreadable> {
    let body: Body = serde_json::from_str(text).map_err(|_| Unreadable("text"))?;
    if body.v != VERSION {
        return Err(Unreadable("format version"));
    }
    let kind = Kind::from_code(&body.kind).ok_or(Unreadable("kind"))?;
    let verdict = Verdict::from_code(&body.verdict).ok_or(Unreadable("verdict"))?;
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(body.at));
    let mut entry = Entry::new(at.ok_or(Unreadable("time"))?, kind, verdict);
    entry.agent = parsed(body.agent, "agent")?;
    entry.owner = parsed(body.owner, "owner")?;
    if let Some((kind, id)) = body.subject {
        const SUBJECT: Unreadable = Unreadable("subject");
        entry.subject = Some(Subject {
            kind: SubjectKind::from_code(&kind).ok_or(SUBJECT)?,
            id: Label::new(&id).ok_or(SUBJECT)?,
        });
    }
    entry.address = body.addr;
    entry.request = label(body.req, "request")?;
    entry.second_factor = body.factor;
    entry.namespace = parsed(body.ns, "namespace")?;
    if let Some((workflow_id, first_run_id)) = body.tree {
        const TREE: Unreadable = Unreadable("tree");
        entry.tree = Some(TreeId {
            namespace: entry.namespace.clone().ok_or(TREE)?,
            workflow_id: workflow_id.parse().map_err(|_| TREE)?,
            first_run_id: first_run_id.parse().map_err(|_| TREE)?,
        });
    }
    if let Some((workflow_id, run_id)) = body.node {
        entry.node = Some(NodeRun {
            workflow_id: workflow_id.parse().map_err(|_| Unreadable("node"))?,
            run_id: parsed(run_id, "node")?,
        });
    }
    if let Some((id, attempt)) = body.act {
        let activity = Activity::new(&id, attempt);
        entry.activity = Some(activity.ok_or(Unreadable("activity"))?);
    }
    entry.tool = parsed(body.tool, "tool")?;
    entry.slot = parsed(body.slot, "slot")?;
    entry.order = body.order.map(order);
    entry.presented = body.shown.map(order);
    entry.behind_s = body.behind;
    entry.fingerprint = parsed(body.fp, "fingerprint")?;
    entry.lease = parsed(body.lease, "lease")?;
    if let Some(why) = body.why {
        entry.reason = Some(Reason::parse(&why).ok_or(Unreadable("reason"))?);
    }
    entry.policy = label(body.policy, "policy")?;
    if let Some(note) = body.note {
        entry.note = Some(Note::new(&note).ok_or(Unreadable("note"))?);
    }
    entry.status = body.status;
    entry.duration_ms = body.ms;
    entry.bytes_out = body.out;
    entry.bytes_in = body.received;
    for (name, number) in body.num {
        let name = Reason::parse(&name).ok_or(Unreadable("numbers"))?;
        entry.numbers.insert(name, number);
    }
    entry.about = body.about;
    entry.count = body.n;
    Ok((entry, body.per))
}

fn numbers(order: Order) -> (u32, u32, u32) {
    (order.epoch.0, order.version.0, order.serial.0)
}

fn order((epoch, version, serial): (u32, u32, u32)) -> Order {
    Order {
        epoch: Epoch(epoch),
        version: Version(version),
        serial: Serial(serial),
    }
}

fn label(text: Option<String>, field: &'static str) -> Result<Option<Label>, Unreadable> {
    text.map(|text| Label::new(&text).ok_or(Unreadable(field)))
        .transpose()
}

fn parsed<T: FromStr>(text: Option<String>, field: &'static str) -> Result<Option<T>, Unreadable> {
    text.map(|text| text.parse().map_err(|_| Unreadable(field)))
        .transpose()
}

/// Milliseconds since 1970; times before it become 1970.
pub(crate) fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bare, full};

    fn clear(entry: &Entry) -> String {
        encode(entry, None).unwrap()
    }

    #[test]
    fn an_entry_reads_back_as_it_was_written() {
        for entry in [full(), bare(2)] {
            assert_eq!(decode(&clear(&entry)), Ok((entry, None)));
        }
    }

    #[test]
    fn the_text_is_frozen() {
        assert_eq!(
            clear(&full()),
            concat!(
                r#"{"v":1,"at":1007,"kind":"outcome","verdict":"failed","agent":"worker","#,
                r#""owner":"svc-7","subject":["tool","acme.deploy"],"addr":"192.0.2.7","#,
                r#""req":"c0ffee","factor":true,"ns":"default","tree":["train","run-1"],"node":["leaf","run-2"],"act":["7",3],"#,
                r#""tool":"acme.deploy","slot":"default","order":[1,2,3],"shown":[1,1,1],"behind":601,"#,
                r#""fp":"0123456789abcdef","lease":"lease-1","why":"refused_401","policy":"deploys","#,
                r#""note":"leaked in build 7","status":401,"ms":12,"out":512,"in":2048,"#,
                r#""num":{"denials":10,"window_s":60},"about":[3,8],"n":9}"#
            )
        );
        assert_eq!(
            clear(&bare(2)),
            r#"{"v":1,"at":2007,"kind":"agent_created","verdict":"succeeded","n":1}"#
        );
    }

    #[test]
    fn what_a_newer_version_adds_is_passed_over_and_a_newer_form_is_refused() {
        let text = clear(&bare(2));
        let more = text.replace("\"n\":1", "\"new\":[1],\"n\":1");
        assert_eq!(decode(&more), Ok((bare(2), None)));
        let newer = text.replace("\"v\":1", "\"v\":2");
        assert_eq!(decode(&newer), Err(Unreadable("format version")));
    }

    #[test]
    fn what_is_no_entry_is_refused_by_field() {
        let text = clear(&full());
        for (from, to, field) in [
            ("outcome", "nonsense", "kind"),
            ("failed", "perhaps", "verdict"),
            ("\"default\",\"tree\"", "\"\",\"tree\"", "namespace"),
            ("refused_401", "Free Text", "reason"),
            ("leaked", "", "note"),
            ("\"tool\":\"acme.deploy", "\"tool\":\" ", "tool"),
            ("[\"tool\"", "[\"else\"", "subject"),
            ("192.0.2.7", "192.0.2.777", "text"),
            ("deploys", "\\n", "policy"),
            ("window_s", "Window", "numbers"),
        ] {
            let edited = if field == "note" {
                text.replace("leaked in build 7", to)
            } else {
                text.replace(from, to)
            };
            assert_eq!(decode(&edited), Err(Unreadable(field)), "{edited}");
        }
        assert_eq!(decode("no json"), Err(Unreadable("text")));
    }
}
