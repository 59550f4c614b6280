//! Signalling new grants to roots: one signal under way per tree, and only the newest.

use crate::{
    metrics::add,
    plane::Plane,
    temporal::{API_TOKEN, Signal, TemporalError},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::oneshot, time::Instant};
use xylem_grant::VerifiedGrant;
use xylem_ids::{RunId, TreeId, WorkflowId, signal_request_id};

/// After a signal, further rotations are gathered until none has come for this long,
const QUIET: Duration = Duration::from_millis(250);
/// but no longer than this.
const LONGEST: Duration = Duration::from_secs(2);

/// Trees whose root was signalled a moment ago.
#[derive(Debug, Default)]
pub(crate) struct Rotations(Mutex<HashMap<TreeId, Flight>>);

/// What happened since the last signal.
#[derive(Debug)]
struct Flight {
    /// Whether something newer was deposited.
    newer: bool,
    /// When something was deposited last.
    last: Instant,
}

impl Rotations {
    /// Begins a flight, or joins the one under way. Whoever begins one signals.
    fn begin(&self, tree: &TreeId) -> bool {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match flights.get_mut(tree) {
            Some(flight) => {
                flight.newer = true;
                flight.last = now;
                false
            }
            None => {
                let flight = Flight {
                    newer: false,
                    last: now,
                };
                flights.insert(tree.clone(), flight);
                true
            }
        }
    }

    /// When the flight has been quiet long enough, or was long enough.
    fn due(&self, tree: &TreeId, began: Instant) -> Instant {
        let flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = flights.get(tree).map_or(began, |flight| flight.last);
        (last + QUIET).min(began + LONGEST)
    }

    /// Whether the flight goes on with another signal; it is over where it does not.
    fn go_on(&self, tree: &TreeId) -> bool {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match flights.get_mut(tree) {
            Some(flight) if flight.newer => {
                flight.newer = false;
                true
            }
            _ => {
                flights.remove(tree);
                false
            }
        }
    }
}

impl Plane {
    /// Signals a tree's current grants to its root, now or together with newer ones. Answers
    /// whether it was now; a failure is left to the sweep.
    pub(crate) async fn announce(self: &Arc<Self>, tree: &TreeId) -> bool {
        if !self.rotations.begin(tree) {
            return false;
        }
        let plane = Arc::clone(self);
        let tree = tree.clone();
        let (tell, told) = oneshot::channel();
        // A flight ends although whoever waits for its first signal has gone away.
        self.tasks.spawn(async move {
            let _ = tell.send(plane.signal_root(&tree).await);
            plane.sweep_later(&tree).await;
            plane.follow(tree).await;
        });
        told.await.unwrap_or(false)
    }

    /// Signals what was deposited while a signal was under way.
    async fn follow(&self, tree: TreeId) {
        loop {
            let began = Instant::now();
            loop {
                let due = self.rotations.due(&tree, began);
                if due <= Instant::now() {
                    break;
                }
                tokio::time::sleep_until(due).await;
            }
            if !self.rotations.go_on(&tree) {
                return;
            }
            self.signal_root(&tree).await;
        }
    }

    /// Signals a tree's current grants to its root. Answers whether all arrived.
    pub(crate) async fn signal_root(&self, tree: &TreeId) -> bool {
        let grants = match self.vault.grants(tree).await {
            Ok(grants) => grants,
            Err(error) => {
                tracing::warn!(%error, tree.id = %tree, "the grants to signal could not be read: the sweep will");
                return false;
            }
        };
        self.signal_grants(tree, &grants).await
    }

    /// Signals grants to a tree's root. Answers whether all arrived.
    pub(crate) async fn signal_grants(&self, tree: &TreeId, grants: &[VerifiedGrant]) -> bool {
        let mut all = true;
        for grant in grants {
            let root = (&tree.workflow_id, &tree.first_run_id);
            if let Err(error) = self.signal_grant(root, grant, "").await {
                tracing::warn!(
                    %error,
                    tree.id = %tree,
                    token.slot = %grant.slot(),
                    token.version = %grant.order().version,
                    "the root could not be signalled: the sweep will"
                );
                all = false;
            }
        }
        all
    }

    /// Signals one grant to one node, once per `again`.
    pub(crate) async fn signal_grant(
        &self,
        (workflow_id, first_run_id): (&WorkflowId, &RunId),
        grant: &VerifiedGrant,
        again: &str,
    ) -> Result<(), TemporalError> {
        let signal = Signal {
            workflow_id,
            run_id: None,
            name: API_TOKEN,
            payload: grant.as_str().into(),
            request_id: signal_request_id(grant.as_str(), workflow_id, first_run_id, again)
                .to_string(),
        };
        self.temporal.signal(signal).await?;
        add(&self.metrics.signals, 1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> TreeId {
        TreeId {
            namespace: "default".parse().unwrap(),
            workflow_id: "train".parse().unwrap(),
            first_run_id: "run-1".parse().unwrap(),
        }
    }

    #[test]
    fn one_flight_per_tree_and_only_what_came_meanwhile_continues_it() {
        let rotations = Rotations::default();
        assert!(rotations.begin(&tree()));
        assert!(!rotations.begin(&tree()));
        assert!(!rotations.begin(&tree()));
        assert!(rotations.go_on(&tree()));
        assert!(!rotations.go_on(&tree()));
        assert!(rotations.begin(&tree()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_gathered_until_it_pauses_but_not_for_ever() {
        let rotations = Rotations::default();
        rotations.begin(&tree());
        let began = Instant::now();
        assert_eq!(rotations.due(&tree(), began), began + QUIET);
        tokio::time::advance(Duration::from_millis(200)).await;
        rotations.begin(&tree());
        assert_eq!(
            rotations.due(&tree(), began),
            began + Duration::from_millis(450)
        );
        tokio::time::advance(Duration::from_secs(5)).await;
        rotations.begin(&tree());
        assert_eq!(rotations.due(&tree(), began), began + LONGEST);
    }
}
