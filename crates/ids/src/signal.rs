//! What the senders of a grant agree on.

use crate::{RunId, WorkflowId};
use uuid::Uuid;

/// The request id of the signal `apiToken` that brings a grant to a node.
///
/// It is the same whoever sends the signal: a parent that forwards, the same parent again after a
/// crash, a control plane that sweeps. Temporal drops the second of two signals with one request
/// id, so that no repetition adds to a node's history. Every change of these bytes doubles the
/// signals of trees that run while workers and control plane are replaced.
///
/// `grant` is the grant in its wire form: its text contains tree, slot, epoch, version and serial.
/// `again` tells deliberate repetitions apart, and is empty where there is none.
///
/// A version 5 UUID (RFC 9562) in the namespace of URLs. Its name is `xylem:apiToken`, the grant,
/// the workflow id, the first run id and, unless empty, `again`, joined by line feeds: no
/// identifier contains one.
#[must_use]
pub fn signal_request_id(
    grant: &str,
    workflow_id: &WorkflowId,
    first_run_id: &RunId,
    again: &str,
) -> Uuid {
    let mut name = format!("xylem:apiToken\n{grant}\n{workflow_id}\n{first_run_id}");
    if !again.is_empty() {
        name.push('\n');
        name.push_str(again);
    }
    Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request_id(grant: &str, workflow_id: &str, again: &str) -> String {
        let workflow_id = workflow_id.parse().expect("a workflow id");
        let first_run_id = "0198c0de-0000-7000-8000-000000000001";
        let first_run_id = first_run_id.parse().expect("a run id");
        signal_request_id(grant, &workflow_id, &first_run_id, again).to_string()
    }

    /// The values come from another implementation of RFC 9562 (Python's `uuid.uuid5`).
    #[test]
    fn its_bytes_are_pinned() {
        for (again, expected) in [
            ("", "964be1c8-1b44-559c-ac96-bc8edd492a67"),
            ("sweep-7", "87d9e436-f8ba-5e49-acfc-b02b56293d21"),
        ] {
            assert_eq!(request_id("xylem1.a", "root/leaf", again), expected);
        }
    }

    #[test]
    fn every_grant_and_node_has_its_own() {
        let one = request_id("xylem1.a", "root/leaf", "");
        assert_ne!(one, request_id("xylem1.b", "root/leaf", ""));
        assert_ne!(one, request_id("xylem1.a", "root/other", ""));
    }
}
