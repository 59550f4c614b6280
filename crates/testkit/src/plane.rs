//! A control plane that is not there: nodes are given grants by the test, and no token exists.

use async_trait::async_trait;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};
use xylem_activities::{
    AuditSink, PortError, Redeem, Redeemed, Release, Released, TaskClaims, TokenSource, Tool,
    ToolDirectory,
};
use xylem_ids::{Slot, ToolName};
use xylem_stateful::activity::{Issuers, Select, TakenIn};

/// What nodes told it, and what it answers to those who ask whose grants to trust.
#[derive(Default)]
pub struct AbsentPlane {
    issuers: Mutex<Option<Issuers>>,
    selects: Mutex<Vec<Select>>,
    rejected: Mutex<BTreeMap<String, u64>>,
}

impl AbsentPlane {
    /// One that nobody has told anything.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Rejected signals reported so far, by reason.
    #[must_use]
    pub fn reported(&self) -> BTreeMap<String, u64> {
        lock(&self.rejected).clone()
    }

    /// Selections recorded so far.
    #[must_use]
    pub fn selects(&self) -> Vec<Select> {
        lock(&self.selects).clone()
    }

    /// Lets it answer questions about issuers.
    pub fn answer(&self, issuers: Issuers) {
        *lock(&self.issuers) = Some(issuers);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nobody<T>() -> Result<T, PortError> {
    Err(PortError::Unavailable {
        what: "there is no control plane in this test".to_owned(),
    })
}

#[async_trait]
impl TokenSource for AbsentPlane {
    async fn redeem(&self, _: &TaskClaims, _: Redeem) -> Result<Redeemed, PortError> {
        nobody()
    }

    async fn release(&self, _: Release) -> Result<Released, PortError> {
        nobody()
    }

    async fn take_in(
        &self,
        _: &TaskClaims,
        _: Slot,
        _: secrecy::SecretString,
    ) -> Result<TakenIn, PortError> {
        nobody()
    }

    async fn issuers(&self, _: &TaskClaims, _: Vec<Slot>) -> Result<Issuers, PortError> {
        lock(&self.issuers).clone().map_or_else(nobody, Ok)
    }

    async fn select(&self, _: &TaskClaims, select: Select) -> Result<(), PortError> {
        lock(&self.selects).push(select);
        Ok(())
    }
}

#[async_trait]
impl ToolDirectory for AbsentPlane {
    async fn tool(&self, _: &TaskClaims, _: &ToolName) -> Result<Tool, PortError> {
        nobody()
    }
}

#[async_trait]
impl AuditSink for AbsentPlane {
    async fn rejected(
        &self,
        _: &TaskClaims,
        by_reason: BTreeMap<String, u64>,
    ) -> Result<(), PortError> {
        let mut rejected = lock(&self.rejected);
        for (reason, count) in by_reason {
            *rejected.entry(reason).or_default() += count;
        }
        Ok(())
    }

    async fn tool_refused(
        &self,
        _: &TaskClaims,
        _: &ToolName,
        _: Option<&Slot>,
        _: &'static str,
    ) -> Result<(), PortError> {
        Ok(())
    }
}
