//! What has come of it, for people and for programs.

use crate::{ledger::Calls, permission::Permission};
use serde::Serialize;
use serde_json::Value;
use std::{collections::BTreeMap, fmt::Write};

/// The summary. It is printed as it stands with `--output json`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Whether everything is as it should be.
    pub(crate) passed: bool,
    /// What is not, in words.
    pub(crate) problems: Vec<String>,
    /// Workflows of the tree.
    pub(crate) nodes: usize,
    /// Levels of the tree.
    pub(crate) levels: u32,
    /// From the signal to the root to the last adoption, by the server's clock.
    pub(crate) cascade_ms: u128,
    /// Nodes that adopted version 2.
    pub(crate) adopted: usize,
    /// Answered calls, by version.
    pub(crate) calls: BTreeMap<u32, u64>,
    /// Attempts after the first one, by version.
    pub(crate) retries: BTreeMap<u32, u64>,
    /// Calls that the API answered with 401, by version.
    pub(crate) refused_401: BTreeMap<u32, u64>,
    /// Calls that failed in any other way, by version.
    pub(crate) failed: BTreeMap<u32, u64>,
    /// All failed calls, and calls refused to nodes that are entitled.
    pub(crate) calls_failed: u64,
    /// Nodes that may redeem.
    pub(crate) entitled: usize,
    /// Those that have called under version 2 after version 1 was revoked.
    pub(crate) called_after_revocation: usize,
    /// What becomes of version 1.
    pub(crate) outdated: Outdated,
    /// The node that was excluded.
    pub(crate) excluded: Excluded,
    /// Refusals of other nodes, by reason.
    pub(crate) other_refusals: BTreeMap<String, u64>,
    /// Workflows of the tree that had ended before it was stopped.
    pub(crate) not_running: Vec<String>,
    /// The API's own count of calls that it refused to the train.
    pub(crate) refusals_at_api: u64,
    /// The agent that was refused until somebody approved.
    pub(crate) permission: Permission,
    /// What the check of the audit log says.
    pub(crate) audit: String,
    /// Canaries: one for each form and place.
    pub(crate) canaries_planted: usize,
    /// Those that the search has seen.
    pub(crate) canaries_found: usize,
    /// Where it has missed some.
    pub(crate) blind: Vec<String>,
    /// Finds of a token or of half of one.
    pub(crate) secrets_found: usize,
    /// Each of them.
    pub(crate) finds: Vec<Value>,
    /// What was searched.
    pub(crate) searched: Vec<SearchedPlace>,
    /// The nodes.
    pub(crate) tree: Vec<NodeLine>,
    /// How long everything took.
    pub(crate) took_ms: u128,
}

/// What becomes of version 1 after its revocation.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Outdated {
    /// Whether the vault says that it is revoked.
    pub(crate) is_revoked: bool,
    /// Why the vault refuses to bring it back.
    pub(crate) rollback_refused: String,
    /// How often the vault has given it out since.
    pub(crate) leases_since: usize,
    /// Nodes that were not on version 2 when it was revoked.
    pub(crate) stragglers: usize,
    /// What the API answers to it.
    pub(crate) api_status: u16,
    /// What the API answers to version 2.
    pub(crate) api_status_of_new: u16,
}

/// The node that its parent has excluded.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Excluded {
    pub(crate) workflow_id: String,
    /// How often it was given a token since.
    pub(crate) granted_since: usize,
    /// How often it was refused since, by reason.
    pub(crate) refusals: BTreeMap<String, usize>,
}

/// A place that was searched.
#[derive(Debug, Serialize)]
pub(crate) struct SearchedPlace {
    pub(crate) place: String,
    /// Files, or runs of workflows.
    pub(crate) parts: usize,
    pub(crate) bytes: u64,
}

/// One node of the tree.
#[derive(Debug, Serialize)]
pub(crate) struct NodeLine {
    pub(crate) workflow_id: String,
    #[serde(skip)]
    pub(crate) parent: String,
    pub(crate) workflow_type: String,
    pub(crate) depth: u32,
    pub(crate) version: Option<u32>,
    pub(crate) state: &'static str,
    /// Answered calls.
    pub(crate) calls: usize,
}

impl Report {
    /// Fills in what became of the calls.
    pub(crate) fn count(&mut self, calls: BTreeMap<u32, Calls>) {
        for (version, calls) in calls {
            self.calls.insert(version, calls.calls);
            self.retries.insert(version, calls.retries);
            self.refused_401.insert(version, calls.refused_401);
            self.failed.insert(version, calls.failed);
        }
        let failed: u64 = self.failed.values().sum();
        let refused: u64 = self.other_refusals.values().sum();
        self.calls_failed = failed + refused;
    }

    /// Decides whether everything is as it should be.
    pub(crate) fn judge(&mut self) {
        let outdated = &self.outdated;
        let conditions = [
            (self.calls_failed == 0, "calls failed"),
            (
                self.not_running.is_empty(),
                "workflows of the tree have ended",
            ),
            (
                self.called_after_revocation == self.entitled && self.entitled > 0,
                "not every entitled workflow has called under version 2 after the revocation",
            ),
            (outdated.is_revoked, "version 1 is not revoked"),
            (
                outdated.leases_since == 0,
                "version 1 was given out after its revocation",
            ),
            (
                outdated.stragglers == 0,
                "version 1 was revoked over stragglers",
            ),
            (
                !outdated.rollback_refused.is_empty(),
                "the vault did not say why it refuses version 1",
            ),
            (
                outdated.api_status == 401,
                "the API does not refuse version 1",
            ),
            (
                outdated.api_status_of_new == 200,
                "the API does not take version 2",
            ),
            (
                self.excluded.refusals.contains_key("excluded") && self.excluded.granted_since == 0,
                "the excluded workflow was not refused",
            ),
            (
                self.permission.refused > 0 && !self.permission.approved_by.is_empty(),
                "an agent without permission was not refused",
            ),
            (self.permission.calls > 0, "the approved call was not made"),
            (!self.audit.is_empty(), "the audit log was not verified"),
            (
                self.canaries_planted > 0 && self.canaries_found == self.canaries_planted,
                "the search did not find every canary",
            ),
            (self.secrets_found == 0, "a token was found"),
        ];
        let broken = conditions.iter().filter(|(holds, _)| !holds);
        self.problems = broken.map(|(_, what)| (*what).to_owned()).collect();
        self.passed = self.problems.is_empty();
    }

    /// The report for people.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        self.draw("", "", &mut text);
        // Writing to a string does not fail.
        let _ = self.sections(&mut text);
        text
    }

    fn draw(&self, parent: &str, indent: &str, text: &mut String) {
        let children: Vec<_> = self
            .tree
            .iter()
            .filter(|node| node.parent == parent)
            .collect();
        for (index, node) in children.iter().enumerate() {
            let is_last = index + 1 == children.len();
            let (branch, below) = match (node.depth, is_last) {
                (0, _) => ("", ""),
                (_, true) => ("└─ ", "   "),
                (_, false) => ("├─ ", "│  "),
            };
            let name = node.workflow_id.rsplit('/').next().unwrap_or_default();
            let version = node.version.map(|version| format!("v{version}"));
            let _ = writeln!(
                text,
                "{:24} {:10} {:3} {:10} {:>4} calls",
                format!("{indent}{branch}{name}"),
                node.workflow_type,
                version.unwrap_or_default(),
                node.state,
                node.calls,
            );
            self.draw(&node.workflow_id, &format!("{indent}{below}"), text);
        }
    }

    fn sections(&self, text: &mut String) -> std::fmt::Result {
        writeln!(
            text,
            "\n{} workflows in {} levels; version 2 reached {} of them in {} ms\n",
            self.nodes, self.levels, self.adopted, self.cascade_ms
        )?;
        writeln!(text, "version   calls  retries     401  failed")?;
        for (version, calls) in &self.calls {
            writeln!(
                text,
                "v{version:<6} {calls:>7} {:>8} {:>7} {:>7}",
                self.retries[version], self.refused_401[version], self.failed[version]
            )?;
        }
        let Outdated {
            rollback_refused,
            api_status,
            leases_since,
            ..
        } = &self.outdated;
        writeln!(
            text,
            "\nsince v1 was revoked, {} of {} entitled workflows have called under v2",
            self.called_after_revocation, self.entitled
        )?;
        writeln!(
            text,
            "v1 at the vault: given out {leases_since} times since, and not taken back ({rollback_refused})"
        )?;
        writeln!(
            text,
            "v1 at the API: {api_status}; v2: {}",
            self.outdated.api_status_of_new
        )?;
        let refusals: usize = self.excluded.refusals.values().sum();
        writeln!(
            text,
            "{}: refused {refusals} times since it was excluded, given a token {} times",
            self.excluded.workflow_id, self.excluded.granted_since
        )?;
        self.permission_section(text)?;
        self.search_section(text)?;
        match self.passed {
            true => writeln!(
                text,
                "\nall as it should be, after {} s",
                self.took_ms / 1000
            ),
            false => writeln!(text, "\nNOT as it should be: {}", self.problems.join("; ")),
        }
    }

    fn permission_section(&self, text: &mut String) -> std::fmt::Result {
        let Permission {
            agent,
            refused,
            why,
            approved_by,
            calls,
        } = &self.permission;
        writeln!(
            text,
            "\n{agent}: refused {refused} times; `xylem policy check` says why:"
        )?;
        for line in why {
            writeln!(text, "  {line}")?;
        }
        writeln!(
            text,
            "once {approved_by} had approved, the call that waited was made: {calls} answered"
        )?;
        writeln!(text, "\nxylem audit verify: {}", self.audit)
    }

    fn search_section(&self, text: &mut String) -> std::fmt::Result {
        writeln!(
            text,
            "\nsearched for the tokens in plain, base64, hex and URL encoding:"
        )?;
        for place in &self.searched {
            let SearchedPlace {
                place,
                parts,
                bytes,
            } = place;
            writeln!(text, "  {place:36} {bytes:>10} bytes in {parts}")?;
        }
        writeln!(
            text,
            "canaries found: {} of {}; tokens found: {}",
            self.canaries_found, self.canaries_planted, self.secrets_found
        )?;
        for find in &self.finds {
            writeln!(text, "  {find}")?;
        }
        for place in &self.blind {
            writeln!(text, "  the search does not see everything in {place}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Report {
        Report {
            entitled: 3,
            called_after_revocation: 3,
            outdated: Outdated {
                is_revoked: true,
                rollback_refused: "version_revoked".to_owned(),
                api_status: 401,
                api_status_of_new: 200,
                ..Outdated::default()
            },
            excluded: Excluded {
                refusals: [("excluded".to_owned(), 2)].into(),
                ..Excluded::default()
            },
            permission: Permission {
                refused: 1,
                approved_by: "approver".to_owned(),
                calls: 1,
                ..Permission::default()
            },
            audit: "intact".to_owned(),
            canaries_planted: 5,
            canaries_found: 5,
            ..Report::default()
        }
    }

    #[test]
    fn a_good_report_passes_and_each_fault_is_named() {
        let mut report = good();
        report.judge();
        assert!(report.passed, "{:?}", report.problems);
        // Each condition and each half of one, in the order in which they are judged.
        type Fault = fn(&mut Report);
        let faults: [(Fault, &str); 19] = [
            (|report| report.calls_failed = 1, "calls failed"),
            (
                |report| report.not_running = vec!["leaf".to_owned()],
                "have ended",
            ),
            (
                |report| report.called_after_revocation = 2,
                "not every entitled",
            ),
            (
                |report| (report.entitled, report.called_after_revocation) = (0, 0),
                "not every entitled",
            ),
            (
                |report| report.outdated.is_revoked = false,
                "is not revoked",
            ),
            (|report| report.outdated.leases_since = 1, "given out after"),
            (|report| report.outdated.stragglers = 1, "over stragglers"),
            (
                |report| report.outdated.rollback_refused.clear(),
                "did not say why",
            ),
            (
                |report| report.outdated.api_status = 200,
                "does not refuse version 1",
            ),
            (
                |report| report.outdated.api_status_of_new = 401,
                "does not take version 2",
            ),
            (
                |report| report.excluded.refusals.clear(),
                "excluded workflow",
            ),
            (
                |report| report.excluded.granted_since = 1,
                "excluded workflow",
            ),
            (|report| report.permission.refused = 0, "without permission"),
            (
                |report| report.permission.approved_by.clear(),
                "without permission",
            ),
            (|report| report.permission.calls = 0, "approved call"),
            (|report| report.audit.clear(), "audit log"),
            (|report| report.canaries_found = 4, "every canary"),
            (
                |report| (report.canaries_planted, report.canaries_found) = (0, 0),
                "every canary",
            ),
            (|report| report.secrets_found = 1, "a token was found"),
        ];
        for (fault, names) in faults {
            let mut report = good();
            fault(&mut report);
            report.judge();
            let [problem] = &report.problems[..] else {
                panic!("{names}: {:?}", report.problems);
            };
            assert!(!report.passed && problem.contains(names), "{problem}");
        }
    }

    #[test]
    fn refusals_of_entitled_nodes_are_failures() {
        let mut report = good();
        report.other_refusals.insert("no_token".to_owned(), 2);
        let failed = Calls {
            failed: 1,
            ..Calls::default()
        };
        report.count([(1, failed)].into());
        assert_eq!(report.calls_failed, 3);
    }
}
