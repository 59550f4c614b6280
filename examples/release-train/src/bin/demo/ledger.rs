//! What the audit log says of the calls.

use anyhow::Result;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use xylem_client::{
    Client,
    v1::{AuditEntry, AuditFilter, ListAuditRequest},
};

/// The audit log of one tree, as far as it was read.
pub(crate) struct Ledger {
    client: Client,
    tree: String,
    page_token: String,
    last: u64,
    entries: Vec<AuditEntry>,
}

/// A place in the log: everything written before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark(u64);

/// What became of the calls under one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Calls {
    /// Answered with success.
    pub(crate) calls: u64,
    /// Attempts after the first one.
    pub(crate) retries: u64,
    /// Answered with 401.
    pub(crate) refused_401: u64,
    /// Failed in any other way.
    pub(crate) failed: u64,
}

impl Ledger {
    pub(crate) fn new(client: Client, tree: &str) -> Self {
        Self {
            client,
            tree: tree.to_owned(),
            page_token: String::new(),
            last: 0,
            entries: Vec::new(),
        }
    }

    /// Reads what was written since the last time. The last page is read again: it was not full.
    pub(crate) async fn read_on(&mut self) -> Result<()> {
        loop {
            let request = ListAuditRequest {
                filter: Some(AuditFilter {
                    tree: self.tree.clone(),
                    ..AuditFilter::default()
                }),
                page_size: Some(1000),
                page_token: self.page_token.clone(),
            };
            let page = self.client.list_audit(request).await?;
            for entry in page.entries {
                let id = entry.id.parse()?;
                if id > self.last {
                    self.last = id;
                    self.entries.push(entry);
                }
            }
            if page.next_page_token.is_empty() {
                return Ok(());
            }
            self.page_token = page.next_page_token;
        }
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark(self.last)
    }

    /// Entries after a place; ids were checked when they were read.
    fn since(&self, mark: Mark) -> impl Iterator<Item = &AuditEntry> {
        let after = move |entry: &&AuditEntry| entry.id.parse().is_ok_and(|id: u64| id > mark.0);
        self.entries.iter().filter(after)
    }

    /// The nodes that have begun a call under a version after a place and got an answer.
    pub(crate) fn callers(&self, version: u32, mark: Mark) -> BTreeSet<&str> {
        let begun: BTreeSet<&str> = self
            .since(mark)
            .filter(|entry| is(entry, "redeem", "granted") && version_of(entry) == Some(version))
            .map(|entry| entry.lease_id.as_str())
            .collect();
        self.since(mark)
            .filter(|entry| is(entry, "outcome", "succeeded"))
            .filter(|entry| begun.contains(entry.lease_id.as_str()))
            .map(|entry| entry.workflow_id.as_str())
            .collect()
    }

    /// How often the vault has given a version out after a place.
    pub(crate) fn leases(&self, version: u32, mark: Mark) -> usize {
        let leases = self
            .since(mark)
            .filter(|entry| is(entry, "redeem", "granted"));
        leases
            .filter(|entry| version_of(entry) == Some(version))
            .count()
    }

    /// How often a node was given a token after a place, and how often refused, by reason.
    pub(crate) fn of_node(
        &self,
        workflow_id: &str,
        mark: Mark,
    ) -> (usize, BTreeMap<String, usize>) {
        let mine =
            |entry: &&AuditEntry| entry.action == "redeem" && entry.workflow_id == workflow_id;
        let mut granted = 0;
        let mut denied = BTreeMap::new();
        for entry in self.since(mark).filter(mine) {
            match entry.outcome.as_str() {
                "granted" => granted += 1,
                _ => *denied.entry(entry.reason.clone()).or_insert(0) += 1,
            }
        }
        (granted, denied)
    }

    /// Answered calls of a node.
    pub(crate) fn calls_of(&self, workflow_id: &str) -> usize {
        let answered = self
            .entries
            .iter()
            .filter(|entry| is(entry, "outcome", "succeeded"));
        answered
            .filter(|entry| entry.workflow_id == workflow_id)
            .count()
    }

    /// Refusals of nodes other than this one, by reason: there should be none.
    pub(crate) fn refusals_of_others(&self, workflow_id: &str) -> BTreeMap<String, u64> {
        let mut refusals = BTreeMap::new();
        for entry in &self.entries {
            if is(entry, "redeem", "denied") && entry.workflow_id != workflow_id {
                *refusals.entry(entry.reason.clone()).or_insert(0) += 1;
            }
        }
        refusals
    }

    /// What became of the calls, by version.
    pub(crate) fn calls(&self) -> BTreeMap<u32, Calls> {
        let mut calls: BTreeMap<u32, Calls> = BTreeMap::new();
        for entry in &self.entries {
            let Some(version) = version_of(entry) else {
                continue;
            };
            let of_version = calls.entry(version).or_default();
            match (entry.action.as_str(), entry.outcome.as_str()) {
                ("redeem", "granted") if entry.attempt > 1 => of_version.retries += 1,
                ("outcome", "succeeded") => of_version.calls += 1,
                ("outcome", _) if entry.http_status == Some(401) => of_version.refused_401 += 1,
                ("outcome", _) => of_version.failed += 1,
                _ => {}
            }
        }
        calls
    }
}

fn is(entry: &AuditEntry, action: &str, outcome: &str) -> bool {
    entry.action == action && entry.outcome == outcome
}

fn version_of(entry: &AuditEntry) -> Option<u32> {
    entry.order.map(|order| order.version)
}
