//! A lease that is released whatever happens.

use crate::ports::{Bytes, Outcome, Release, Released, TokenSource};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use xylem_ids::LeaseId;

/// A release that takes longer is given up: the lease ends by itself.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// One redemption in flight. Dropped without [`Lease::end`], it is released in the background as
/// cancelled.
pub(crate) struct Lease {
    tokens: Arc<dyn TokenSource>,
    since: Instant,
    open: Option<LeaseId>,
    /// How much was sent and came back so far.
    pub(crate) bytes: Bytes,
}

impl Lease {
    pub(crate) fn new(tokens: Arc<dyn TokenSource>, lease: LeaseId) -> Self {
        Self {
            tokens,
            since: Instant::now(),
            open: Some(lease),
            bytes: Bytes::default(),
        }
    }

    /// Releases the lease and tells how the call went. A release that fails is logged and no
    /// reason for the call to fail.
    pub(crate) async fn end(mut self, outcome: Outcome, http_status: Option<u16>) -> Released {
        let Some(release) = self.release(outcome, http_status) else {
            return Released::default();
        };
        let released = send(&self.tokens, release).await;
        self.open = None;
        released
    }

    fn release(&self, outcome: Outcome, http_status: Option<u16>) -> Option<Release> {
        Some(Release {
            lease: self.open.clone()?,
            outcome,
            http_status,
            duration: self.since.elapsed(),
            bytes: match outcome {
                Outcome::NotSent => Bytes::default(),
                _ => self.bytes,
            },
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(release) = self.release(Outcome::Cancelled, None) else {
            return;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let tokens = self.tokens.clone();
            runtime.spawn(async move { send(&tokens, release).await });
        }
    }
}

async fn send(tokens: &Arc<dyn TokenSource>, release: Release) -> Released {
    let lease = release.lease.clone();
    let error = match tokio::time::timeout(RELEASE_TIMEOUT, tokens.release(release)).await {
        Ok(Ok(released)) => return released,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer in time".to_owned(),
    };
    tracing::warn!(lease.id = %lease, error, "a lease was not released; it ends by itself");
    Released::default()
}
