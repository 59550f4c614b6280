//! What is shown: a token is rotated under a working tree, and the old one revoked; an agent without
//! permission is refused until somebody approves.

use crate::{
    history::{self, Run},
    ledger::{Ledger, Mark},
    needle::Secret,
    permission::{self, Permission},
    progress::Progress,
    report::{Excluded, NodeLine, Outdated, Report, SearchedPlace},
    scan,
    stack::Stack,
};
use anyhow::{Context, Result, bail};
use release_train::{Held, Pace, TASK_QUEUE, TOOLS, TrainPlan};
use secrecy::SecretString;
use serde_json::json;
use std::{collections::BTreeSet, time::Duration};
use xylem_client::{
    Deposit, InitialToken, StartTree,
    v1::{self, GetTreeRequest, Node, NodeState, RevokeTokenRequest, TreeView, VersionState},
};
use xylem_ids::{Slot, Version, WorkflowId};

/// The tree.
const TREE: &str = "release-42";
/// The stage that holds one of its rollouts back, and the rollout.
const FLEET: &str = "fleet-us";
const SERVICE: &str = "mail";
/// The workflows of both.
pub(crate) const SPECIAL: [&str; 2] = ["release-42/fleet-us", "release-42/fleet-us/mail"];

/// How long any one thing may take.
const PATIENCE: Duration = Duration::from_secs(90);
const STOP_WAIT: Duration = Duration::from_secs(60);
const REVOKE_WAIT: Duration = Duration::from_secs(60);

/// The tokens, as the external API has issued them: both versions of the train's.
struct Tokens {
    first: SecretString,
    second: SecretString,
    /// That of the agent that needs permission.
    other: SecretString,
}

/// The story while it goes on.
pub(crate) struct Story<'a> {
    stack: &'a mut Stack,
    progress: &'a Progress,
    plan: TrainPlan,
    tree: WorkflowId,
    slot: Slot,
    ledger: Ledger,
}

/// What the first half of the story leaves behind.
struct Rotated {
    tokens: Tokens,
    entitled: BTreeSet<String>,
    held_since: Mark,
    revoked: Mark,
    revocation: v1::RevokeTokenResponse,
    permission: Permission,
}

impl<'a> Story<'a> {
    pub(crate) fn new(stack: &'a mut Stack, progress: &'a Progress, pace: Pace) -> Result<Self> {
        let ledger = Ledger::new(stack.client.clone(), TREE);
        Ok(Self {
            stack,
            progress,
            plan: TrainPlan::standard(pace),
            tree: TREE.parse()?,
            slot: Slot::default_slot(),
            ledger,
        })
    }

    /// Tells it all. The tree is stopped at the end, unless it is to stay. The runs of all
    /// workflows come with the report.
    pub(crate) async fn tell(mut self, stay: bool) -> Result<(Report, Vec<Run>)> {
        self.stack.register_tools().await?;
        let first = self.start().await?;
        let mut entitled = self.until_all_work().await?;
        let held_since = self.hold().await?;
        entitled.remove(&held());

        let second = self.rotate(entitled.len()).await?;
        let revocation = self.revoke().await?;
        let revoked = self.ledger.mark();
        self.until_called(
            &entitled,
            2,
            revoked,
            "calling under version 2 after the revocation",
        )
        .await?;
        let (permission, other) = permission::show(self.stack, self.progress).await?;
        let tokens = Tokens {
            first,
            second,
            other,
        };
        let rotated = Rotated {
            tokens,
            entitled,
            held_since,
            revoked,
            revocation,
            permission,
        };
        self.conclude(rotated, stay).await
    }

    /// Deposits version 1 and starts the tree with it.
    async fn start(&mut self) -> Result<SecretString> {
        self.progress
            .step("starting the release train with version 1 of the token");
        let token = self.stack.acme.issue("v1").await?;
        let start = StartTree {
            workflow_id: self.tree.clone(),
            workflow_type: "Train".parse()?,
            task_queue: TASK_QUEUE.parse()?,
            input_json: serde_json::to_string(&self.plan)?,
            tokens: vec![InitialToken {
                slot: self.slot.clone(),
                deposit: self.deposit(&token)?,
            }],
            tools: TOOLS
                .iter()
                .map(|tool| tool.parse())
                .collect::<Result<_, _>>()?,
            intake: Some(false),
            request_id: String::new(),
        };
        self.stack
            .client
            .start_tree(start)
            .await
            .context("starting the tree")?;
        Ok(token)
    }

    fn deposit(&self, token: &SecretString) -> Result<Deposit> {
        Ok(Deposit {
            token: token.clone(),
            audiences: vec![self.stack.acme.url().parse()?],
            ttl: None,
            allow_short: false,
            request_id: String::new(),
        })
    }

    /// Waits until every workflow runs, and every one that is entitled has made a call. The answer
    /// names those.
    async fn until_all_work(&mut self) -> Result<BTreeSet<String>> {
        let total = self.plan.nodes();
        let query = format!("RootWorkflowId = '{TREE}' AND ExecutionStatus = 'Running'");
        self.until_counted("workflows running", &query, total)
            .await?;
        let view = self.converged().await?;
        let entitled: BTreeSet<String> = view
            .nodes
            .iter()
            .filter(|node| is_entitled(node, &self.slot))
            .map(|node| node.workflow_id.clone())
            .collect();
        let begin = self.ledger.mark();
        self.until_called(&entitled, 1, begin, "calling under version 1")
            .await?;
        Ok(entitled)
    }

    /// Excludes one node while it works, and waits until the vault has refused it.
    async fn hold(&mut self) -> Result<Mark> {
        let fleet = format!("{TREE}/{FLEET}");
        let change = Held {
            service: SERVICE.to_owned(),
            held: true,
        };
        let input = json!(change).to_string();
        self.progress
            .step("excluding one rollout, with an update of the stock Temporal CLI");
        let update = ["workflow", "update", "execute", "--workflow-id", &fleet];
        let named = ["--name", "hold", "--input", &input];
        self.stack
            .temporal_cli(&[&update[..], &named[..]].concat())
            .await?;
        self.ledger.read_on().await?;
        let mark = self.ledger.mark();
        let ledger = &mut self.ledger;
        self.progress
            .until(
                "refusals of the excluded rollout",
                1,
                PATIENCE,
                async || {
                    ledger.read_on().await?;
                    Ok(ledger.of_node(&held(), mark).1.values().sum())
                },
            )
            .await?;
        Ok(mark)
    }

    /// Rotates while everybody works, and shows how the version goes through the tree.
    async fn rotate(&mut self, entitled: usize) -> Result<SecretString> {
        let token = self.stack.acme.issue("v2").await?;
        let deposit = Deposit {
            audiences: Vec::new(),
            ..self.deposit(&token)?
        };
        let client = self.stack.client.clone();
        client
            .rotate_token(&self.tree, &self.slot, deposit)
            .await
            .context("rotating")?;
        let query = format!("RootWorkflowId = '{TREE}' AND XylemTokens = 'default@2'");
        self.until_counted("workflows on version 2", &query, entitled)
            .await?;
        self.converged().await?;
        Ok(token)
    }

    /// Revokes version 1, in Xylem behind the gate and then at the API.
    async fn revoke(&mut self) -> Result<v1::RevokeTokenResponse> {
        self.progress
            .step("revoking version 1, in Xylem and at the API");
        let request = RevokeTokenRequest {
            tree: TREE.to_owned(),
            slot: self.slot.to_string(),
            version: 1,
            force: false,
            wait: Some(wire(REVOKE_WAIT)),
            reason: "rotated".to_owned(),
        };
        let revocation = self.stack.client.revoke_token(request).await;
        let revocation = revocation.context("revoking version 1")?;
        self.stack.acme.revoke("v1").await?;
        self.ledger.read_on().await?;
        Ok(revocation)
    }

    async fn conclude(mut self, rotated: Rotated, stay: bool) -> Result<(Report, Vec<Run>)> {
        self.progress.step("looking at what has happened");
        let refusals_at_api = self.stack.acme.refusals().await?;
        let outdated = self.outdated(&rotated).await?;
        let view = self.view().await?;
        self.ledger.read_on().await?;
        self.stack.examine().await?;
        let audit = self.stack.verify_audit().await?;
        if !stay {
            self.stop().await?;
        }
        let runs = history::fetch_all(&self.stack.temporal).await?;
        let cascade = history::cascade(&runs, TREE, 2)?;
        let (granted, refusals) = self.ledger.of_node(&held(), rotated.held_since);
        let mut report = Report {
            nodes: view.nodes.len(),
            levels: view
                .nodes
                .iter()
                .map(|node| node.depth + 1)
                .max()
                .unwrap_or(0),
            entitled: rotated.entitled.len(),
            called_after_revocation: self.ledger.callers(2, rotated.revoked).len(),
            cascade_ms: cascade.duration().as_millis(),
            adopted: cascade.adopted.len(),
            tree: view.nodes.iter().map(|node| self.line(node)).collect(),
            excluded: Excluded {
                workflow_id: held(),
                granted_since: granted,
                refusals,
            },
            other_refusals: self.ledger.refusals_of_others(&held()),
            outdated,
            not_running: not_running(&view),
            refusals_at_api,
            permission: rotated.permission,
            audit,
            ..Report::default()
        };
        report.count(self.ledger.calls());
        self.search(&mut report, rotated.tokens).await?;
        Ok((report, runs))
    }

    /// What becomes of version 1 now.
    async fn outdated(&mut self, rotated: &Rotated) -> Result<Outdated> {
        let client = &self.stack.client;
        let versions = client.token_status(&self.tree, Some(&self.slot)).await?;
        let first = versions
            .iter()
            .find(|version| version.order.is_some_and(|order| order.version == 1));
        let first = first.context("the vault does not know version 1")?;
        let again = client
            .rollback_token(&self.tree, &self.slot, Some(Version(1)))
            .await;
        let refused = match again {
            Ok(_) => bail!("the vault has taken version 1 back although it is revoked"),
            Err(error) => error.reason().unwrap_or_default().to_owned(),
        };
        Ok(Outdated {
            is_revoked: first.state() == VersionState::Revoked,
            rollback_refused: refused,
            leases_since: self.ledger.leases(1, rotated.revoked),
            stragglers: rotated.revocation.stragglers.len(),
            api_status: self.stack.acme.call(&rotated.tokens.first).await?,
            api_status_of_new: self.stack.acme.call(&rotated.tokens.second).await?,
        })
    }

    fn line(&self, node: &Node) -> NodeLine {
        let slot = node
            .slots
            .iter()
            .find(|slot| slot.slot == self.slot.as_str());
        NodeLine {
            workflow_id: node.workflow_id.clone(),
            parent: node.parent_workflow_id.clone(),
            workflow_type: node.workflow_type.clone(),
            depth: node.depth,
            version: slot.and_then(|slot| slot.order).map(|order| order.version),
            state: match (slot, node.state()) {
                (_, NodeState::Current) if slot.is_some_and(|slot| slot.transit) => "transit",
                (_, NodeState::Current) => "current",
                (Some(_), NodeState::Unselected) if node.workflow_id == held() => "excluded",
                (_, NodeState::Unselected) => "needs none",
                (_, NodeState::Behind) => "behind",
                (_, NodeState::Closed) => "closed",
                _ => "unknown",
            },
            calls: self.ledger.calls_of(&node.workflow_id),
        }
    }

    /// Stops the tree: asks its workflows to end, and waits until nothing of it runs.
    async fn stop(&mut self) -> Result<()> {
        self.progress.step("stopping the release train");
        let request = v1::StopTreeRequest {
            tree: TREE.to_owned(),
            terminate: false,
            reason: "the demonstration is over".to_owned(),
            wait: Some(wire(STOP_WAIT)),
        };
        let stopped = self.stack.client.stop_tree(request).await?;
        match stopped.still_running {
            0 => Ok(()),
            left => bail!("{left} workflows still run after the tree was stopped"),
        }
    }

    /// Plants a canary and finds it; then searches for the tokens in the same way.
    async fn search(&mut self, report: &mut Report, tokens: Tokens) -> Result<()> {
        self.progress
            .step("searching for a canary in everything that was written");
        let canary = self.stack.acme.issue("canary").await?;
        scan::plant(self.stack, &canary).await?;
        let places = scan::search(self.stack, &[scan::canary(&canary)]).await?;
        (report.canaries_found, report.canaries_planted) = scan::canaries(&places);
        report.blind = scan::blind(&places);

        self.progress
            .step("searching for the tokens in the same places");
        let secret = |label, value| Secret { label, value };
        let secrets = [
            secret("v1", tokens.first),
            secret("v2", tokens.second),
            secret("intern", tokens.other),
        ];
        let places = scan::search(self.stack, &secrets).await?;
        report.finds = scan::described(&places);
        report.secrets_found = report.finds.len();
        report.searched = places
            .into_iter()
            .map(|place| SearchedPlace {
                place: place.place,
                parts: place.parts,
                bytes: place.bytes,
            })
            .collect();
        Ok(())
    }

    async fn until_counted(&mut self, what: &str, query: &str, total: usize) -> Result<()> {
        let stack = &mut *self.stack;
        self.progress
            .until(what, total, PATIENCE, async || {
                stack.check()?;
                let count = stack
                    .temporal
                    .count_workflows(query, Default::default())
                    .await?;
                Ok(count.count())
            })
            .await
    }

    async fn until_called(
        &mut self,
        nodes: &BTreeSet<String>,
        version: u32,
        since: Mark,
        what: &str,
    ) -> Result<()> {
        let (ledger, stack) = (&mut self.ledger, &mut *self.stack);
        self.progress
            .until(what, nodes.len(), PATIENCE, async || {
                stack.check()?;
                ledger.read_on().await?;
                let callers = ledger.callers(version, since);
                Ok(nodes
                    .iter()
                    .filter(|node| callers.contains(node.as_str()))
                    .count())
            })
            .await
    }

    async fn view(&self) -> Result<TreeView> {
        let request = GetTreeRequest {
            tree: TREE.to_owned(),
            ..GetTreeRequest::default()
        };
        Ok(self.stack.client.get_tree(request).await?)
    }

    /// Waits until every running, selected node has the newest version.
    async fn converged(&self) -> Result<TreeView> {
        let mut seen = None;
        self.progress
            .until("tree converged", 1, PATIENCE, async || {
                let view = self.view().await?;
                let converged = view.converged;
                seen = Some(view);
                Ok(usize::from(converged))
            })
            .await?;
        seen.context("the tree was not looked at")
    }
}

fn held() -> String {
    format!("{TREE}/{FLEET}/{SERVICE}")
}

/// Whether a node may redeem: it has the slot, and not for others only.
fn is_entitled(node: &Node, slot: &Slot) -> bool {
    let mut slots = node.slots.iter();
    slots.any(|held| {
        held.slot == slot.as_str() && !held.transit && held.state() == NodeState::Current
    })
}

fn not_running(view: &TreeView) -> Vec<String> {
    let nodes = view.nodes.iter().filter(|node| node.status != "running");
    nodes.map(|node| node.workflow_id.clone()).collect()
}

fn wire(duration: Duration) -> xylem_proto::Duration {
    xylem_proto::Duration {
        seconds: duration.as_secs().cast_signed(),
        nanos: 0,
    }
}
