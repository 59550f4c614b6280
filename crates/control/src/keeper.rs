//! Keeping a credential whose value is obtained by itself: the next value before the one there is
//! ends, in every tree, and the old one revoked when no tree needs it.

use crate::{
    fault::Fault,
    handlers::Handlers,
    plane::Plane,
    renewal::Renewed,
    schedule::{CONTROL_QUEUE, SILENCE, Sweeper},
};
use serde::{Deserialize, Serialize};
use std::{mem, sync::Arc, time::Duration};
use temporalio_common::RetryPolicy;
use temporalio_macros::{workflow, workflow_methods};
use temporalio_sdk::{
    ActivityOptions, SyncWorkflowContext, WorkflowContext, WorkflowContextView, WorkflowResult,
};
use temporalio_workflow::{
    ContinueAsNewOptions, TimerOptions, WorkflowCancellationToken, WorkflowTermination,
    workflows::select,
};
use xylem_grant::UnixSeconds;
use xylem_ids::CredentialName;
use xylem_vault::{Asker, CredentialStatus, VaultError};

/// The type of the workflow.
const KEEPER: &str = "TokenKeeper";
/// One look takes at most so long, requests to the provider and to the probe included.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// A provider that does not answer is asked again after so long; then the pause doubles,
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// Looks in one run of the workflow, however often it is asked for more: each adds fewer than a dozen
/// events.
const LOOKS: u32 = 500;
/// It is looked at least this often: somebody may have rotated it.
const SELDOM: Duration = Duration::from_secs(60 * 60);
/// While trees are on their way to the new version.
const SOON: Duration = Duration::from_secs(15);
/// While somebody else obtains the next value; and for so long a provider is left alone by whoever
/// may signal.
const TURN: Duration = Duration::from_secs(30);

/// Where a credential is that is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The first look is not over.
    #[default]
    Looking,
    /// Nothing is to be done.
    Fine,
    /// Somebody else is obtaining the next value.
    Renewing,
    /// The next value is due, and could not be obtained: it is tried again.
    Late,
    /// The provider has refused.
    Broken,
    /// Trees hold an older version still.
    Spreading,
    /// Versions before the active one are to be revoked, and something needs them still.
    Settling,
    /// There is no such credential any more, or its value is not obtained by itself.
    Over,
}

/// What a look came to: what the query `keeper` answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// When to look again, in seconds; not at all where nothing is to be kept any more.
    again_after: Option<u64>,
    /// Where the credential is.
    #[serde(default)]
    pub step: Step,
    /// Its active version.
    pub version: Option<u32>,
    /// When its next value is to be obtained, in seconds since 1970.
    pub due: Option<u64>,
    /// Why it could not be obtained when that was last tried, as a code.
    pub failure: Option<String>,
}

impl Kept {
    /// What the database says of it, to be looked at again after so long.
    fn of(status: &CredentialStatus, now: UnixSeconds, step: Step, after: Duration) -> Self {
        let source = status.source.as_ref();
        let fruitless = source.and_then(|source| source.fruitless.as_ref()?.reason.as_ref());
        let broken = source.and_then(|source| source.broken.as_ref());
        Self {
            again_after: Some(after.as_secs().max(1)),
            step,
            version: status.active().map(|active| active.version.0),
            due: status.renewal_due(now).map(|UnixSeconds(due)| due),
            failure: broken.or(fruitless).map(ToString::to_string),
        }
    }

    fn over() -> Self {
        Self {
            step: Step::Over,
            ..Self::default()
        }
    }

    /// Whether a value that is due could not be obtained.
    pub(crate) fn has_failed(&self) -> bool {
        self.step == Step::Late
    }
}

/// Why a look is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// Its keeper's time has come.
    Due,
    /// Somebody wants the next value now.
    Asked,
    /// A sweep: whoever keeps it may have been ended. It asks no more often than a keeper would.
    Sweep,
}

impl Occasion {
    /// How long ago the last question has to be. The database says when that was: whoever may write to
    /// the namespace may run as many keepers as they like.
    fn rest(self) -> Duration {
        match self {
            // Clocks differ: whoever has paused is let through.
            Self::Due | Self::Sweep => FIRST_PAUSE / 2,
            Self::Asked => TURN,
        }
    }
}

/// What a run begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Begin {
    /// The credential.
    Keep(CredentialName),
    /// The same, where its next value was asked for in the run before.
    Renew {
        /// The credential.
        renew: CredentialName,
    },
}

impl Begin {
    fn next(credential: CredentialName, asked: bool) -> Self {
        match asked {
            true => Self::Renew { renew: credential },
            false => Self::Keep(credential),
        }
    }

    /// The credential, and whether its next value is asked for.
    fn parts(self) -> (CredentialName, bool) {
        match self {
            Self::Keep(credential) => (credential, false),
            Self::Renew { renew } => (renew, true),
        }
    }
}

/// Keeps one credential for as long as there is one. Each look begins with what the database says, so
/// that it does not matter how often, or by how many, one is taken; what it remembers decides its
/// pauses only. Its history holds the name, numbers, times and codes.
#[workflow]
#[derive(Default)]
pub struct TokenKeeper {
    /// What the last look came to.
    kept: Kept,
    /// How many looks in a row found that a value is late.
    failures: u32,
    /// Whether the next value was asked for since the last look.
    asked: bool,
}

#[workflow_methods]
impl TokenKeeper {
    /// Looks, and waits for as long as the look said, or until it is asked for.
    ///
    /// # Errors
    /// It was cancelled.
    #[run(name = "TokenKeeper")]
    pub async fn run(ctx: &mut WorkflowContext<Self>, begin: Begin) -> WorkflowResult<()> {
        let (credential, asked) = begin.parts();
        ctx.state_mut(|keeper| keeper.asked |= asked);
        for _ in 0..LOOKS {
            // Without a limit of attempts: an outage of the database is waited for.
            let retries = RetryPolicy::builder()
                .initial_interval(FIRST_PAUSE)
                .maximum_interval(LONGEST_PAUSE)
                .build();
            let options = ActivityOptions::with_start_to_close_timeout(LOOK_TIMEOUT)
                .heartbeat_timeout(SILENCE)
                .retry_policy(retries)
                .build();
            let asked = ctx.state_mut(|keeper| mem::take(&mut keeper.asked));
            let kept = if asked {
                ctx.execute_activity(Sweeper::renew, credential.clone(), options)
                    .await?
            } else {
                ctx.execute_activity(Sweeper::keep, credential.clone(), options)
                    .await?
            };
            let Some(mut pause) = ctx.state_mut(|keeper| keeper.note(kept)) else {
                return Ok(());
            };
            if asked {
                // Anybody who may signal may ask, and a provider is not asked by them without end.
                pause = pause.min(TURN);
            }
            // A token of its own: SDK 1.1.1 panics where the workflow's cancellation and the timer
            // come in one activation.
            let ended = WorkflowCancellationToken::new();
            let pause = TimerOptions::builder(pause)
                .cancellation_token(ended.clone())
                .build();
            select! {
                _ = ctx.cancelled() => return Err(WorkflowTermination::cancelled()),
                _ = ctx.timer(pause) => {},
                _ = ctx.wait_condition(|keeper| keeper.asked && !asked) => ended.cancel(),
            }
        }
        let asked = ctx.state(|keeper| keeper.asked);
        let next = Begin::next(credential, asked);
        ctx.continue_as_new(next, ContinueAsNewOptions::default())
            .map(|never| match never {})
    }

    /// Has the next value obtained now, due or not.
    #[signal(name = "renewNow")]
    pub fn renew_now(&mut self, _ctx: &mut SyncWorkflowContext<Self>) {
        self.asked = true;
    }

    /// What the last look came to.
    #[query(name = "keeper")]
    pub fn keeper(&self, _ctx: &WorkflowContextView) -> Kept {
        self.kept.clone()
    }
}

impl TokenKeeper {
    /// Takes over what a look came to, and answers how long to wait for the next one.
    fn note(&mut self, kept: Kept) -> Option<Duration> {
        let pause = kept.again_after.map(Duration::from_secs);
        let mut pause = pause?;
        if kept.has_failed() {
            let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16));
            pause = pause.min(doubled);
            self.failures = self.failures.saturating_add(1);
        } else {
            self.failures = 0;
        }
        self.kept = kept;
        Some(pause)
    }
}

impl Plane {
    /// Does whatever a credential needs now, and says when to look again. That a provider does not answer,
    /// or refuses, is no error: it is what the look came to.
    pub(crate) async fn keep_credential(
        self: &Arc<Self>,
        name: &CredentialName,
        occasion: Occasion,
    ) -> Result<Kept, Fault> {
        let namespace = &self.settings.namespace;
        let status = match self.vault.credential(namespace, name).await {
            Err(VaultError::NotFound { .. }) => return Ok(Kept::over()),
            status => status?,
        };
        if status.source.is_none() {
            return Ok(Kept::over());
        }
        let now = self.now().into();
        let is_asked = match occasion {
            Occasion::Due => status.is_renewal_due(now),
            Occasion::Asked => true,
            Occasion::Sweep => status.is_renewal_due(now) && !status.was_asked_in_vain(now),
        };
        if is_asked {
            let seen = status.active().map(|active| active.version);
            let keeper = Asker::Keeper {
                agent: &self.system,
                rest: occasion.rest(),
            };
            let renewed = self.renew_now(name, seen, keeper, &self.system).await?;
            match (renewed, occasion) {
                // Tried again later: what was asked for is not forgotten.
                (Renewed::Busy, Occasion::Asked) => return Err(Fault::renewing()),
                (Renewed::Busy, _) => return Ok(Kept::of(&status, now, Step::Renewing, TURN)),
                _ => {}
            }
        }
        // Whoever is behind is given what there is, whether there is more or not.
        let behind = self.spread(name).await? > 0;
        let needed = Handlers(Arc::clone(self)).retire_old(name).await?;
        let status = self.vault.credential(namespace, name).await?;
        Ok(self.seen(&status, behind, needed))
    }

    /// What there is to be said of it, and when to look again.
    fn seen(&self, status: &CredentialStatus, behind: bool, needed: bool) -> Kept {
        let now = UnixSeconds::from(self.now());
        let source = status.source.as_ref();
        let is_broken = source.is_some_and(|source| source.broken.is_some());
        let in_vain = source.is_some_and(|source| {
            let last = source.fruitless.as_ref();
            last.is_some_and(|last| last.reason.is_some())
        });
        let due = status.renewal_due(now);
        let due = due.map(|due| Duration::from_secs(due.0.saturating_sub(now.0)));
        let (step, after) = if is_broken {
            (Step::Broken, due.unwrap_or(SELDOM))
        } else if in_vain && due == Some(Duration::ZERO) {
            (Step::Late, LONGEST_PAUSE)
        } else if behind {
            (Step::Spreading, SOON)
        } else if needed {
            (Step::Settling, SOON)
        } else {
            (Step::Fine, due.unwrap_or(SELDOM))
        };
        let after = if behind || needed {
            after.min(SOON)
        } else {
            after
        };
        Kept::of(status, now, step, after.min(SELDOM))
    }

    /// Has a credential kept, unless it is. Best effort: every sweep does it, and looks itself.
    pub(crate) async fn keeper_runs(&self, name: &CredentialName) {
        let Ok(name_json) = serde_json::to_value(name) else {
            return;
        };
        let id = format!("xylem-keeper/{name}");
        self.arrange_workflow(id, KEEPER, CONTROL_QUEUE, name_json, None)
            .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_handed_to_the_next_run() {
        let name: CredentialName = "acme".parse().unwrap();
        for asked in [false, true] {
            let begin = serde_json::to_string(&Begin::next(name.clone(), asked)).unwrap();
            let begun: Begin = serde_json::from_str(&begin).unwrap();
            assert_eq!(begun.parts(), (name.clone(), asked));
        }
        // As whoever has one kept begins it, and every version before.
        let first: Begin = serde_json::from_str("\"acme\"").unwrap();
        assert_eq!(first.parts(), (name, false));
    }
}
