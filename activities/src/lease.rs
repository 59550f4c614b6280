//! A lease that is released whatever happens.

use crate::ports::{Bytes, Outcome, PortError, Release, Released, TokenSource};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use xylem_ids::LeaseId;

/// A release that takes longer is given up: the lease ends by itself.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// What has to be heard is said again after so long.
const PAUSE: Duration = Duration::from_millis(500);

/// One redemption in flight. Dropped without [`Lease::end`], it is released in the background as
/// cancelled.
pub(crate) struct Lease {
    tokens: Arc<dyn TokenSource>,
    since: Instant,
    open: Option<LeaseId>,
    insists_until: Option<Instant>,
    /// How much was sent and came back so far.
    pub(crate) bytes: Bytes,
}

impl Lease {
    pub(crate) fn new(tokens: Arc<dyn TokenSource>, lease: LeaseId) -> Self {
        Self {
            tokens,
            since: Instant::now(),
            open: Some(lease),
            insists_until: None,
            bytes: Bytes::default(),
        }
    }

    /// The same, which says until then that nothing was done if nothing was: the next attempt gets no
    /// token where that was not heard.
    pub(crate) fn insisting(mut self, until: Option<Instant>) -> Self {
        self.insists_until = until;
        self
    }

    /// Releases the lease and tells how the call went. A release that fails is logged and no
    /// reason for the call to fail.
    pub(crate) async fn end(mut self, outcome: Outcome, http_status: Option<u16>) -> Released {
        let Some(release) = self.release(outcome, http_status) else {
            return Released::default();
        };
        let until = self.insists_until.filter(|_| is_undone(&release));
        let released = loop {
            let released = send(&self.tokens, release.clone()).await;
            let again = until.is_some_and(|until| Instant::now() + PAUSE < until);
            if released.is_some() || !again {
                break released;
            }
            tokio::time::sleep(PAUSE).await;
        };
        self.open = None;
        released.unwrap_or_default()
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

/// Whether the API is known to have done nothing, as the control plane sees it.
fn is_undone(release: &Release) -> bool {
    matches!(release.outcome, Outcome::NotSent | Outcome::Refused401)
        || release.http_status == Some(429)
}

/// What is known then; nothing where nobody heard it.
async fn send(tokens: &Arc<dyn TokenSource>, release: Release) -> Option<Released> {
    let lease = release.lease.clone();
    let (heard, error) = match tokio::time::timeout(RELEASE_TIMEOUT, tokens.release(release)).await
    {
        Ok(Ok(released)) => return Some(released),
        Ok(Err(error)) => {
            let unheard = matches!(error, PortError::Unavailable { .. });
            ((!unheard).then(Released::default), error.to_string())
        }
        Err(_) => (None, "no answer in time".to_owned()),
    };
    tracing::warn!(lease.id = %lease, error, "a lease was not released; it ends by itself");
    heard
}
