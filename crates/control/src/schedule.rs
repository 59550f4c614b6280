//! The sweep as durable work: a schedule starts it, a workflow runs it, a worker in this process
//! carries it out. After a rotation one tree is swept on its own, once the cascade has had time.

use crate::{
    Control,
    fault::Fault,
    keeper::{Kept, Occasion, TokenKeeper},
    plane::Plane,
    sweep::Swept,
    temporal::{Cluster, StartWorkflow, TemporalError},
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, thread, time::Duration};
use temporalio_client::{
    Client,
    schedules::{
        CreateScheduleOptions, ScheduleAction, ScheduleError, ScheduleOverlapPolicy, ScheduleSpec,
    },
};
use temporalio_common::RetryPolicy;
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::{
    ActivityOptions, Runtime, Worker, WorkerOptions, WorkflowContext, WorkflowResult,
    activities::{ActivityContext, ActivityError},
    runtime::RuntimeOptions,
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use xylem_ids::{CredentialName, TreeId, Version};

/// The task queue of the control plane's own workflows.
pub const CONTROL_QUEUE: &str = "xylem-control";

const SCHEDULE: &str = "xylem-sweep";
const WATCH_SCHEDULE: &str = "xylem-watch";
const SWEEP: &str = "xylem.Sweep";
/// One sweep of everything may take so long; then the next one begins anew.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(10 * 60);
const SWEEP_ATTEMPTS: u32 = 5;
const SWEEP_PAUSE: Duration = Duration::from_secs(1);
/// How often whoever does something says that it goes on.
const BEAT: Duration = Duration::from_secs(10);
/// Whoever is not heard of for so long is gone: somebody else goes on.
pub(crate) const SILENCE: Duration = Duration::from_secs(30);

const BACKUP_SCHEDULE: &str = "xylem-backup";
const ARCHIVE_SCHEDULE: &str = "xylem-archive";
const ARCHIVE_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// No backup may take longer; nor one run of archiving, which the next one takes up.
const BACKUP_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// Before the first of the next attempts, each of which doubles it: all of them are longer than somebody
/// who was killed while archiving is waited for.
const BACKUP_PAUSE: Duration = Duration::from_secs(30);

/// Why the sweep does not run.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The schedule could not be made.
    #[error("the schedule of the sweep could not be made: check what the namespace permits")]
    Schedule(#[source] ScheduleError),
    /// The worker could not be started, or failed.
    #[error("the control plane's worker on {CONTROL_QUEUE} failed")]
    Worker(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Which trees to sweep, or which credential to spread; or that the audit log is looked at or archived.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Scope {
    All,
    Archive,
    BackUp,
    Tree(TreeId),
    Credential(CredentialName),
    Watch,
}

/// Sweeps once.
#[workflow]
#[derive(Default)]
struct Sweep;

#[workflow_methods]
impl Sweep {
    #[run(name = "xylem.Sweep")]
    async fn run(ctx: &mut WorkflowContext<Self>, scope: Scope) -> WorkflowResult<()> {
        let (timeout, pause) = match scope {
            Scope::BackUp | Scope::Archive => (BACKUP_TIMEOUT, BACKUP_PAUSE),
            _ => (SWEEP_TIMEOUT, SWEEP_PAUSE),
        };
        let retries = RetryPolicy::builder()
            .initial_interval(pause)
            .maximum_attempts(SWEEP_ATTEMPTS)
            .build();
        let options = ActivityOptions::with_start_to_close_timeout(timeout)
            .heartbeat_timeout(SILENCE)
            .retry_policy(retries)
            .build();
        ctx.execute_activity(Sweeper::sweep, scope, options).await?;
        Ok(())
    }
}

pub(crate) struct Sweeper(Arc<Plane>);

#[activities]
impl Sweeper {
    /// Does what a credential needs now.
    #[activity(name = "xylem.keep")]
    pub(crate) async fn keep(
        self: Arc<Self>,
        ctx: ActivityContext,
        name: CredentialName,
    ) -> Result<Kept, ActivityError> {
        let kept = self.0.keep_credential(&name, Occasion::Due);
        alive(&ctx, kept)
            .await
            .map_err(|fault| failed(fault.reason()))
    }

    /// The same, and obtains its next value first, due or not.
    #[activity(name = "xylem.renew")]
    pub(crate) async fn renew(
        self: Arc<Self>,
        ctx: ActivityContext,
        name: CredentialName,
    ) -> Result<Kept, ActivityError> {
        let kept = self.0.keep_credential(&name, Occasion::Asked);
        alive(&ctx, kept)
            .await
            .map_err(|fault| failed(fault.reason()))
    }

    #[activity(name = "xylem.sweep")]
    async fn sweep(
        self: Arc<Self>,
        ctx: ActivityContext,
        scope: Scope,
    ) -> Result<(), ActivityError> {
        let swept = alive(&ctx, self.0.do_all_of(&scope)).await;
        match swept {
            Ok(swept) => {
                tracing::debug!(
                    swept.fine,
                    swept.signalled,
                    swept.failed,
                    swept.stopped,
                    "swept"
                );
                Ok(())
            }
            Err(fault) => {
                self.0.met(&fault);
                let reason = fault.reason();
                // Says what failed by its code; the log has the rest.
                let status = tonic::Status::from(fault);
                tracing::warn!(reason, "a sweep failed: {}", status.message());
                Err(failed(reason))
            }
        }
    }
}

/// Says again and again that this process lives: where it does not, another one goes on soon.
async fn alive<T>(ctx: &ActivityContext, work: impl Future<Output = T>) -> T {
    let mut beat = tokio::time::interval(BEAT);
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = beat.tick() => {
                // Whoever is not heard is taken to be gone: nothing is lost with it.
                let _ = ctx.record_heartbeat(()).await;
            }
        }
    }
}

/// The stable reason as an error of its own: what reaches history is a code.
fn failed(reason: &'static str) -> ActivityError {
    #[derive(Debug, thiserror::Error)]
    #[error("the sweep failed: {0}")]
    struct SweepFailed(&'static str);
    ActivityError::from(SweepFailed(reason))
}

impl Plane {
    async fn do_all_of(self: &Arc<Self>, scope: &Scope) -> Result<Swept, Fault> {
        match scope {
            Scope::All => self.sweep_all().await,
            Scope::Watch => self.watch_all().await.map(|_| Swept::default()),
            Scope::Archive => self.archive_daily().await.map(|()| Swept::default()),
            Scope::BackUp => self.take_due_backup().await.map(|()| Swept::default()),
            Scope::Tree(tree) => self.sweep_tree(tree).await.map(|(_, swept)| swept),
            Scope::Credential(name) => self.spread(name).await.map(|failed| Swept {
                failed,
                ..Swept::default()
            }),
        }
    }

    /// Has a tree swept a while from now, unless that is arranged already. Best effort: the
    /// scheduled sweep comes anyway.
    pub(crate) async fn sweep_later(&self, tree: &TreeId) {
        let Some(delay) = self.settings.sweep_after_rotation else {
            return;
        };
        let id = format!("xylem-sweep/{}/{}", tree.workflow_id, tree.first_run_id);
        self.arrange(id, &Scope::Tree(tree.clone()), Some(delay))
            .await;
    }

    /// Has a credential's newest version spread over its trees. Best effort: the scheduled sweep does
    /// it too.
    pub(crate) async fn spread_soon(&self, name: &CredentialName, version: Version) {
        let id = format!("xylem-spread/{name}/{version}");
        self.arrange(id, &Scope::Credential(name.clone()), None)
            .await;
    }

    async fn arrange(&self, id: String, scope: &Scope, delay: Option<Duration>) {
        if let Ok(scope) = serde_json::to_value(scope) {
            self.arrange_workflow(id, SWEEP, CONTROL_QUEUE, scope, delay)
                .await;
        }
    }

    /// Starts a workflow of this process's own worker, unless it runs.
    pub(crate) async fn arrange_workflow(
        &self,
        id: String,
        kind: &str,
        queue: &str,
        input: serde_json::Value,
        delay: Option<Duration>,
    ) {
        let (Ok(workflow_id), Ok(workflow_type), Ok(task_queue)) =
            (id.parse(), kind.parse(), queue.parse())
        else {
            return;
        };
        let started = self.temporal.start(StartWorkflow {
            workflow_id,
            workflow_type,
            task_queue,
            input: Some(input),
            headers: Vec::new(),
            execution_timeout: None,
            request_id: uuid::Uuid::new_v4().to_string(),
            delay,
        });
        match started.await {
            Ok(_) | Err(TemporalError::AlreadyRunning) => {}
            Err(error) => tracing::debug!(%error, "left to the scheduled sweep"),
        }
    }
}

impl Control {
    /// Makes the schedules of the sweep, of the watch, of backups and of archives where there are none, and
    /// carries all of them out until `stop` is cancelled.
    ///
    /// # Errors
    /// The schedule cannot be made, or the worker fails.
    pub async fn worker(
        &self,
        cluster: &Cluster,
        stop: CancellationToken,
    ) -> Result<(), WorkerError> {
        let client = cluster.client().clone();
        let settings = &self.plane().settings;
        let note = "Signals current grants to nodes that a cascade missed, and renews grants.";
        let sweep = (SCHEDULE, Scope::All, settings.sweep_every, note);
        ensure_schedule(&client, sweep).await?;
        let note = "Looks at what is new in the audit log, and raises alerts.";
        let watch = (WATCH_SCHEDULE, Scope::Watch, settings.watch_every, note);
        ensure_schedule(&client, watch).await?;
        if let Some(backups) = &self.plane().backups {
            let note = "Makes backups of the control plane's database.";
            let back_up = (BACKUP_SCHEDULE, Scope::BackUp, backups.every(), note);
            ensure_schedule(&client, back_up).await?;
        }
        if self.plane().archives.is_some() {
            let note = "Archives old entries of the audit log, and drops them.";
            let archive = (ARCHIVE_SCHEDULE, Scope::Archive, ARCHIVE_EVERY, note);
            ensure_schedule(&client, archive).await?;
        }
        let sweeper = Sweeper(Arc::clone(self.plane()));
        let (ended, end) = oneshot::channel();
        let tokio = tokio::runtime::Handle::current();
        // Workflow code is not `Send`: the SDK's worker keeps its thread.
        let spawned = thread::Builder::new()
            .name(CONTROL_QUEUE.to_owned())
            .spawn(move || {
                let ran = tokio.block_on(run_worker(client, sweeper, stop));
                // Nobody waits any more where the caller was dropped.
                let _ = ended.send(ran);
            });
        spawned.map_err(|error| WorkerError::Worker(error.into()))?;
        end.await
            .unwrap_or_else(|error| Err(error.into()))
            .map_err(WorkerError::Worker)
    }
}

async fn run_worker(
    client: Client,
    sweeper: Sweeper,
    stop: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let options = WorkerOptions::new(CONTROL_QUEUE)
        .max_cached_workflows(100_usize)
        .register_activities(sweeper)
        .register_workflow::<Sweep>()?
        .register_workflow::<TokenKeeper>()?
        .build();
    let runtime = Runtime::from_current_tokio(RuntimeOptions::default())?;
    let mut worker = Worker::new(&runtime, client, options)?;
    let shut_down = worker.shutdown_handle();
    let running = worker.run();
    tokio::pin!(running);
    let ran = tokio::select! {
        ran = &mut running => ran,
        () = stop.cancelled() => {
            shut_down();
            running.await
        }
    };
    Ok(ran?)
}

/// Makes the schedule. An existing one keeps its interval: an operator may have changed it.
async fn ensure_schedule(
    client: &Client,
    (id, scope, every, note): (&'static str, Scope, Duration, &'static str),
) -> Result<(), WorkerError> {
    let action = ScheduleAction::start_workflow(Sweep::run, scope, CONTROL_QUEUE, id);
    let options = CreateScheduleOptions::builder()
        .action(action)
        .spec(ScheduleSpec::from_interval(every))
        .overlap_policy(ScheduleOverlapPolicy::Skip)
        .note(note)
        .build();
    match client.create_schedule(id, options).await {
        Ok(_) => Ok(()),
        Err(ScheduleError::Rpc(status)) if status.code() == Code::AlreadyExists => Ok(()),
        Err(error) => Err(WorkerError::Schedule(error)),
    }
}
