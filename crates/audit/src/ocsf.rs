//! Entries as events of the Open Cybersecurity Schema Framework, <https://schema.ocsf.io/1.6.0>.
//!
//! Only attributes that 1.6.0 defines are set; what has no place there is under `unmapped.xylem`.

use crate::{Entry, Kind, Record, Verdict, body::milliseconds};
use serde_json::{Map, Value, json};

/// The version of the schema.
pub const OCSF_VERSION: &str = "1.6.0";

/// Classes of events, by their id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// 3001, Account Change.
    Account = 3001,
    /// 3002, Authentication.
    Authentication = 3002,
    /// 3004, Entity Management.
    Entity = 3004,
    /// 6003, API Activity.
    Api = 6003,
    /// 2004, Detection Finding.
    Finding = 2004,
}

/// An activity that its class does not name: its name is the kind of the entry.
const OTHER: u32 = 99;

impl Class {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Authenticated
            | Kind::AuthenticationFailed
            | Kind::TokenIssued
            | Kind::SignedIn => Self::Authentication,
            Kind::Exposure
            | Kind::Tampered
            | Kind::Alert
            | Kind::SessionReused
            | Kind::RecoveryCodeUsed => Self::Finding,
            Kind::Redeem
            | Kind::Outcome
            | Kind::PermissionDenied
            | Kind::RequestsLimited
            | Kind::SignalsRejected
            | Kind::TreeOpened
            | Kind::TreeBound
            | Kind::TreeAbandoned
            | Kind::TreeStopped
            | Kind::ToolsAllowed => Self::Api,
            kind if kind.code().starts_with("agent_") => Self::Account,
            _ => Self::Entity,
        }
    }

    /// What was done, in the numbers of the class.
    fn activity(self, kind: Kind) -> u32 {
        let done = kind.code().rsplit('_').next().unwrap_or_default();
        match (self, done) {
            (Self::Authentication | Self::Finding, _)
            | (Self::Api, "opened")
            | (Self::Account, "created")
            | (Self::Entity, "created" | "registered" | "deposit" | "bound") => 1,
            (Self::Api, "allowed" | "bound") => 3,
            (Self::Api, "stopped" | "abandoned")
            | (Self::Entity, "revoke" | "revoked" | "removed" | "unbound" | "dropped") => 4,
            (Self::Account, "retired") => 5,
            (Self::Account, "erased") => 6,
            (Self::Entity, _) => 3,
            (Self::Account | Self::Api, _) => OTHER,
        }
    }

    fn category(self) -> u32 {
        self as u32 / 1000
    }

    /// What the class has attributes of that not all events have.
    fn profiles(self) -> Option<[&'static str; 1]> {
        match self {
            Self::Api => Some(["security_control"]),
            // Who did it.
            Self::Finding => Some(["host"]),
            Self::Account | Self::Authentication | Self::Entity => None,
        }
    }

    /// Where the class has what people said.
    fn note(self) -> &'static str {
        match self {
            Self::Entity | Self::Finding => "comment",
            Self::Account | Self::Authentication | Self::Api => "message",
        }
    }
}

/// The event that a record is.
#[must_use]
pub fn ocsf(record: &Record) -> Value {
    let entry = &record.entry;
    let class = Class::of(entry.kind);
    let activity = class.activity(entry.kind);
    let at = milliseconds(entry.at);
    let mut event = Map::new();
    let mut set = |name: &str, value: Value| {
        if !value.is_null() {
            event.insert(name.to_owned(), value);
        }
    };
    set("class_uid", json!(class as u32));
    set("category_uid", json!(class.category()));
    set("activity_id", json!(activity));
    if activity == OTHER {
        set("activity_name", json!(entry.kind.code()));
    }
    set("type_uid", json!(class as u32 * 100 + activity));
    set("severity_id", json!(severity(entry)));
    set("time", json!(at));
    set("count", json!(entry.count));
    set("status_id", json!(if went_well(entry) { 1 } else { 2 }));
    set("status_detail", text(entry.reason.as_ref()));
    set(
        class.note(),
        text(entry.note.as_ref().map(|note| note.as_str())),
    );
    set("duration", json!(entry.duration_ms));
    set("metadata", metadata(record, class));
    set("actor", actor(entry));
    for (name, value) in of_class(class, record) {
        set(&name, value);
    }
    set("unmapped", json!({ "xylem": unmapped(entry) }));
    Value::Object(event)
}

fn metadata(record: &Record, class: Class) -> Value {
    let entry = &record.entry;
    let seq: Option<u64> = record.id.as_str().parse().ok();
    without_nulls(json!({
        "version": OCSF_VERSION,
        "product": {
            "name": "Xylem",
            "vendor_name": "Xylem",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "log_name": "audit",
        "uid": record.id.as_str(),
        "sequence": seq,
        "event_code": entry.kind.code(),
        "tenant_uid": text(entry.namespace.as_ref()),
        "correlation_uid": text(entry.lease.as_ref()),
        "profiles": class.profiles(),
    }))
}

/// What only events of this class have.
fn of_class(class: Class, record: &Record) -> Map<String, Value> {
    let entry = &record.entry;
    let fields = match class {
        Class::Authentication => json!({
            "user": user(entry),
            "service": {"name": "xylem"},
            "is_mfa": entry.second_factor,
            "src_endpoint": entry.address.map(|address| json!({"ip": address})),
        }),
        Class::Account => json!({
            "user": subject(entry).map_or_else(|| user(entry), |(_, id)| json!({"uid": id})),
            "src_endpoint": entry.address.map(|address| json!({"ip": address})),
        }),
        Class::Entity => json!({ "entity": entity(entry) }),
        Class::Api => json!({
            "api": without_nulls(json!({
                "operation": entry.kind.code(),
                "service": {"name": entry.tool.as_ref().map_or("xylem", |tool| tool.as_str())},
                "request": entry.request.as_ref().map(|id| json!({"uid": id.as_str()})),
                "response": entry.status.map(|status| json!({"code": status})),
            })),
            "src_endpoint": entry.address.map_or_else(
                || json!({"svc_name": if entry.node.is_some() { "xylem-worker" } else { "xylem" }}),
                |address| json!({"ip": address}),
            ),
            "http_response": entry.status.map(|status| json!({"code": status})),
            "action_id": if entry.verdict == Verdict::Denied { 2 } else { 1 },
            "resources": resources(entry),
        }),
        Class::Finding => json!({
            "finding_info": {
                "uid": record.id.as_str(),
                "title": entry.kind.code(),
                "types": [entry.kind.code()],
            },
            "is_alert": true,
            "resources": resources(entry),
        }),
    };
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn severity(entry: &Entry) -> u32 {
    match (entry.kind, entry.verdict) {
        (Kind::Tampered, _) => 5,
        (Kind::Exposure, _) => 4,
        (_, Verdict::Denied | Verdict::Failed) => 2,
        _ => 1,
    }
}

fn went_well(entry: &Entry) -> bool {
    matches!(entry.verdict, Verdict::Granted | Verdict::Succeeded)
}

fn actor(entry: &Entry) -> Value {
    json!({ "user": user(entry), "app_name": "xylem" })
}

/// Whoever did it; one who is not known has to be named all the same.
fn user(entry: &Entry) -> Value {
    match &entry.agent {
        Some(agent) => json!({"uid": agent.as_str()}),
        None => json!({"name": "unknown", "type_id": 0}),
    }
}

fn subject(entry: &Entry) -> Option<(&str, &str)> {
    let subject = entry.subject.as_ref()?;
    Some((subject.kind.code(), subject.id.as_str()))
}

/// What was changed: the subject, or else the slot of the tree.
fn entity(entry: &Entry) -> Value {
    if let Some((kind, id)) = subject(entry) {
        return json!({"type": kind, "uid": id});
    }
    let version = entry.order.map(|order| order.version.to_string());
    match (&entry.slot, &entry.tool) {
        (Some(slot), _) => without_nulls(json!({
            "type": "slot",
            "uid": slot.as_str(),
            "version": version,
        })),
        (None, Some(tool)) => json!({"type": "tool", "uid": tool.as_str()}),
        (None, None) => json!({"type": entry.kind.code(), "uid": "xylem"}),
    }
}

fn resources(entry: &Entry) -> Value {
    let tree = entry.tree.as_ref();
    let tree = tree.map(|tree| json!({"type": "tree", "uid": tree.workflow_id.as_str()}));
    let node = entry.node.as_ref();
    let node = node.map(|node| json!({"type": "workflow", "uid": node.workflow_id.as_str()}));
    let slot = entry.slot.as_ref();
    let slot = slot.map(|slot| json!({"type": "slot", "uid": slot.as_str()}));
    let all: Vec<_> = [tree, node, slot].into_iter().flatten().collect();
    if all.is_empty() {
        Value::Null
    } else {
        json!(all)
    }
}

fn unmapped(entry: &Entry) -> Value {
    let tree = entry.tree.as_ref();
    let order = |order: xylem_ids::Order| [order.epoch.0, order.version.0, order.serial.0];
    let numbers: Map<String, Value> = entry
        .numbers
        .iter()
        .map(|(name, number)| (name.to_string(), json!(number)))
        .collect();
    without_nulls(json!({
        "verdict": entry.verdict.code(),
        "owner": text(entry.owner.as_ref()),
        "subject": text(entry.subject.as_ref()),
        "first_run_id": text(tree.map(|tree| &tree.first_run_id)),
        "run_id": text(entry.node.as_ref().and_then(|node| node.run_id.as_ref())),
        "activity_id": text(entry.activity.as_ref().map(|activity| activity.id())),
        "attempt": entry.activity.as_ref().map(|activity| activity.attempt()),
        "order": entry.order.map(order),
        "presented": entry.presented.map(order),
        "behind_s": entry.behind_s,
        "fingerprint": text(entry.fingerprint.as_ref()),
        "policy": text(entry.policy.as_ref()),
        "bytes_out": entry.bytes_out,
        "bytes_in": entry.bytes_in,
        "numbers": (!numbers.is_empty()).then_some(numbers),
        "about": entry.about.map(|(first, last)| [first, last]),
    }))
}

fn text(value: Option<impl ToString>) -> Value {
    value.map_or(Value::Null, |value| Value::String(value.to_string()))
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .collect(),
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bare, full};
    use std::collections::BTreeMap;

    fn event(kind: Kind, mut entry: Entry) -> Value {
        entry.kind = kind;
        ocsf(&Record {
            id: "7".parse().unwrap(),
            entry,
            erased: false,
        })
    }

    /// The schema of the class.
    fn schema(class: u64) -> jsonschema::Validator {
        let name = match class {
            2004 => "detection_finding",
            3001 => "account_change",
            3002 => "authentication",
            3004 => "entity_management",
            6003 => "api_activity",
            _ => panic!("{class}"),
        };
        let classes = include_str!("../tests/ocsf-1.6.0.json");
        let mut schema: Value = serde_json::from_str(classes).unwrap();
        schema["$ref"] = json!(format!("#/$defs/{name}"));
        jsonschema::validator_for(&schema).unwrap()
    }

    #[test]
    fn every_kind_is_an_event_of_its_class_and_nothing_else() {
        let schemas = [2004, 3001, 3002, 3004, 6003].map(|class| (class, schema(class)));
        let schemas = BTreeMap::from(schemas);
        for kind in Kind::ALL {
            for entry in [full(), bare(2)] {
                let event = event(*kind, entry);
                let class = event["class_uid"].as_u64().unwrap();
                let wrong: Vec<_> = schemas[&class].iter_errors(&event).collect();
                assert!(wrong.is_empty(), "{kind}: {wrong:?}");
                let activity = event["activity_id"].as_u64().unwrap();
                assert_eq!(event["type_uid"], class * 100 + activity);
                if activity == 99 {
                    assert_eq!(event["activity_name"], kind.code());
                }
            }
        }
    }

    #[test]
    fn what_the_schema_does_not_have_is_noticed() {
        let event = event(Kind::AgentCreated, full());
        let schema = schema(3001);
        let is_valid = |name: &str, value: Value| {
            let mut event = event.clone();
            event[name] = value;
            schema.is_valid(&event)
        };
        assert!(is_valid("message", json!("leaked")));
        assert!(!is_valid("comment", json!("leaked")));
        assert!(!is_valid("activity_id", json!(98)));
        assert!(!is_valid("user", json!({"type_id": 0})));
    }

    #[test]
    fn kinds_are_in_the_class_that_their_readers_look_in() {
        for (kind, class, activity) in [
            (Kind::Authenticated, 3002, 1),
            (Kind::AgentCreated, 3001, 1),
            (Kind::KeyRevoked, 3004, 4),
            (Kind::Deposit, 3004, 1),
            (Kind::Redeem, 6003, 99),
            (Kind::TreeStopped, 6003, 4),
            (Kind::Exposure, 2004, 1),
        ] {
            let event = event(kind, full());
            assert_eq!(event["class_uid"], class, "{kind}");
            assert_eq!(event["activity_id"], activity, "{kind}");
        }
    }

    #[test]
    fn an_event_says_what_the_entry_says() {
        let event = event(Kind::Outcome, full());
        assert_eq!(event["time"], 1007);
        assert_eq!(event["status_id"], 2);
        assert_eq!(event["status_detail"], "refused_401");
        assert_eq!(event["actor"]["user"]["uid"], "worker");
        assert_eq!(event["api"]["service"]["name"], "acme.deploy");
        assert_eq!(event["src_endpoint"]["ip"], "192.0.2.7");
        assert_eq!(event["http_response"]["code"], 401);
        assert_eq!(event["metadata"]["sequence"], 7);
        assert_eq!(event["metadata"]["correlation_uid"], "lease-1");
        assert_eq!(event["unmapped"]["xylem"]["order"], json!([1, 2, 3]));
        assert_eq!(event["unmapped"]["xylem"]["numbers"]["denials"], 10);
    }
}
