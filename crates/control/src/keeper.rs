//! Keeping a credential whose value is obtained by itself: the next value before the one there is
//! ends, in every tree, and the old one revoked when no tree needs it.

use crate::{
    fault::Fault,
    handlers::Handlers,
    plane::Plane,
    schedule::{CONTROL_QUEUE, Sweeper},
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use temporalio_common::RetryPolicy;
use temporalio_macros::{workflow, workflow_methods};
use temporalio_sdk::{ActivityOptions, WorkflowContext, WorkflowResult};
use temporalio_workflow::{
    ContinueAsNewOptions, TimerOptions, WorkflowCancellationToken, WorkflowTermination,
    workflows::select,
};
use xylem_grant::UnixSeconds;
use xylem_ids::CredentialName;
use xylem_vault::VaultError;

/// The type of the workflow.
const KEEPER: &str = "TokenKeeper";
/// One look takes at most so long, requests to the provider and to the probe included.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// A provider that does not answer is asked again after so long; then the pause doubles,
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// Looks in one run of the workflow: each adds fewer than a dozen events.
const LOOKS: u32 = 500;
/// It is looked at least this often: somebody may have rotated it.
const SELDOM: Duration = Duration::from_secs(60 * 60);
/// While trees are on their way to the new version.
const SOON: Duration = Duration::from_secs(15);
/// While somebody else obtains the next value.
const TURN: Duration = Duration::from_secs(30);

/// What a look came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// When to look again, in seconds; not at all where nothing is to be kept any more.
    again_after: Option<u64>,
}

impl Kept {
    const OVER: Self = Self { again_after: None };

    fn again(after: Duration) -> Self {
        Self {
            again_after: Some(after.as_secs().max(1)),
        }
    }
}

/// Keeps one credential for as long as there is one. It has no state of its own: each look begins
/// with what the database says, so that it does not matter how often, or by how many, one is taken.
/// Its history holds the name and durations.
#[workflow]
#[derive(Default)]
pub struct TokenKeeper;

#[workflow_methods]
impl TokenKeeper {
    /// Looks, and waits for as long as the look said.
    ///
    /// # Errors
    /// It was cancelled.
    #[run(name = "TokenKeeper")]
    pub async fn run(
        ctx: &mut WorkflowContext<Self>,
        credential: CredentialName,
    ) -> WorkflowResult<()> {
        for _ in 0..LOOKS {
            // Without a limit of attempts: an outage of the provider is waited for.
            let retries = RetryPolicy::builder()
                .initial_interval(FIRST_PAUSE)
                .maximum_interval(LONGEST_PAUSE)
                .build();
            let options = ActivityOptions::with_start_to_close_timeout(LOOK_TIMEOUT)
                .retry_policy(retries)
                .build();
            let kept = ctx
                .execute_activity(Sweeper::keep, credential.clone(), options)
                .await?;
            let Some(seconds) = kept.again_after else {
                return Ok(());
            };
            // A token of its own: SDK 1.1.1 panics where the workflow's cancellation and the timer
            // come in one activation.
            let pause = TimerOptions::builder(Duration::from_secs(seconds))
                .cancellation_token(WorkflowCancellationToken::new())
                .build();
            select! {
                _ = ctx.cancelled() => return Err(WorkflowTermination::cancelled()),
                _ = ctx.timer(pause) => {},
            }
        }
        ctx.continue_as_new(credential, ContinueAsNewOptions::default())
            .map(|never| match never {})
    }
}

impl Plane {
    /// Does whatever a credential needs now, and says when to look again. A provider that does not
    /// answer is an error: asking again may help. One that refuses is none: it is in the log, and
    /// nothing is asked again before somebody changes something.
    pub(crate) async fn keep_credential(
        self: &Arc<Self>,
        name: &CredentialName,
    ) -> Result<Kept, Fault> {
        let namespace = &self.settings.namespace;
        let status = match self.vault.credential(namespace, name).await {
            Err(VaultError::NotFound { .. }) => return Ok(Kept::OVER),
            status => status?,
        };
        if status.source.is_none() {
            return Ok(Kept::OVER);
        }
        if status.is_renewal_due(self.now().into()) {
            match self.renew_now(name, &self.system).await {
                Err(fault) if fault.reason() == "renewing" => return Ok(Kept::again(TURN)),
                Err(fault) if fault.reason() == "provider_refused" => {
                    return Ok(Kept::again(SELDOM));
                }
                renewed => renewed?,
            }
        }
        let failed = self.spread(name).await?;
        let handlers = Handlers(Arc::clone(self));
        if failed > 0 || handlers.retire_old(name).await? {
            return Ok(Kept::again(SOON));
        }
        let status = self.vault.credential(namespace, name).await?;
        let now = UnixSeconds::from(self.now());
        let left = status.renewal_due().map_or(SELDOM, |due| {
            Duration::from_secs(due.0.saturating_sub(now.0))
        });
        Ok(Kept::again(left.min(SELDOM)))
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
