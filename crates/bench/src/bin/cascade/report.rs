//! What was measured, for people and for programs.

use crate::shape::Role;
use comfy_table::{Table, presets};
use serde::Serialize;
use std::{collections::BTreeMap, fmt::Write};
use xylem_bench::{Bar, Machine};

/// How many times the limit a cascade may take.
const SLOWEST: f64 = 1.2;

/// How many adoptions a node may need on average in a burst.
const ADOPTIONS: f64 = 3.0;

/// Everything. It is printed as it stands with `--output json`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) server: Server,
    pub(crate) worker: WorkerSettings,
    pub(crate) cascades: Vec<Cascade>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) burst: Option<Burst>,
    pub(crate) bars: Vec<Bar>,
}

/// The Temporal server's settings.
#[derive(Debug, Serialize)]
pub(crate) struct Server {
    pub(crate) version: String,
    pub(crate) database: &'static str,
    /// Dynamic configuration beside the server's own defaults.
    pub(crate) dynamic_config: Vec<String>,
    pub(crate) search_attributes: Vec<&'static str>,
}

/// The worker's settings.
#[derive(Debug, Serialize)]
pub(crate) struct WorkerSettings {
    pub(crate) cached_workflows: usize,
    pub(crate) workflow_task_slots: usize,
    pub(crate) local_activity_slots: usize,
}

/// Rotations of one tree, and of the limit.
#[derive(Debug, Serialize)]
pub(crate) struct Cascade {
    pub(crate) shape: String,
    pub(crate) nodes: usize,
    /// The most children that a node has.
    pub(crate) widest: usize,
    /// Whether each node upserts the search attribute.
    pub(crate) upsert: bool,
    /// Convergence times of the tree, in milliseconds, in the order they were measured.
    pub(crate) tree_ms: Vec<f64>,
    pub(crate) tree_median_ms: f64,
    /// The same of as many workflows signalled by a client.
    pub(crate) limit_ms: Vec<f64>,
    pub(crate) limit_median_ms: f64,
    pub(crate) ratio: f64,
    /// The most that one rotation added to any node, by role.
    pub(crate) adds: BTreeMap<Role, Adds>,
    pub(crate) bytes_per_workflow: u64,
}

/// What one rotation adds to a history.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Adds {
    pub(crate) events: usize,
    pub(crate) workflow_tasks: usize,
}

/// Rotations sent as fast as possible.
#[derive(Debug, Serialize)]
pub(crate) struct Burst {
    pub(crate) shape: String,
    pub(crate) rotations: u32,
    pub(crate) sent_in_ms: f64,
    pub(crate) converged_in_ms: f64,
    pub(crate) nodes: usize,
    pub(crate) nodes_on_last_version: usize,
    /// Workflow tasks that changed the version, per node.
    pub(crate) adoptions_per_node: f64,
}

impl Cascade {
    /// What this has to reach.
    pub(crate) fn bars(&self) -> Vec<Bar> {
        let with = if self.upsert { "with" } else { "without" };
        let what = |figure: &str| format!("{} {with} upsert: {figure}", self.shape);
        let mut bars = vec![Bar::at_most(what("times the limit"), self.ratio, SLOWEST)];
        for (role, adds) in &self.adds {
            let (events, tasks) = match (role, self.widest) {
                (Role::Leaf, _) if self.upsert => (5.0, 1.0),
                (Role::Leaf, _) => (4.0, 1.0),
                (_, ..=500) => (6.0, 1.0),
                _ => (20.0, 4.0),
            };
            let of = |figure: &str| what(&format!("{figure} per {}", word(*role)));
            bars.push(Bar::at_most(of("events"), count(adds.events), events));
            bars.push(Bar::at_most(
                of("workflow tasks"),
                count(adds.workflow_tasks),
                tasks,
            ));
        }
        bars
    }
}

impl Burst {
    /// What this has to reach.
    pub(crate) fn bars(&self) -> Vec<Bar> {
        let what = |figure: &str| format!("burst on {}: {figure}", self.shape);
        let behind = self.nodes - self.nodes_on_last_version;
        vec![
            Bar::at_most(what("nodes behind"), count(behind), 0.0),
            Bar::below(
                what("adoptions per node"),
                self.adoptions_per_node,
                ADOPTIONS,
            ),
        ]
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of events are small")]
pub(crate) fn count(value: usize) -> f64 {
    value as f64
}

fn word(role: Role) -> &'static str {
    match role {
        Role::Root => "root",
        Role::Inner => "inner node",
        Role::Leaf => "leaf",
    }
}

impl Report {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = self.settings();
        let _ = write!(text, "\n{}\n\n", self.cascades());
        if let Some(burst) = &self.burst {
            let _ = writeln!(
                text,
                "burst on {}: {} rotations sent in {:.0} ms, converged after {:.0} ms; {} of {} \
                 nodes on the last version, {:.2} adoptions per node\n",
                burst.shape,
                burst.rotations,
                burst.sent_in_ms,
                burst.converged_in_ms,
                burst.nodes_on_last_version,
                burst.nodes,
                burst.adoptions_per_node,
            );
        }
        let _ = write!(text, "{}", xylem_bench::table(&self.bars));
        text
    }

    fn settings(&self) -> String {
        let Self { server, worker, .. } = self;
        let config = match &*server.dynamic_config {
            [] => "its defaults".to_owned(),
            set => set.join(", "),
        };
        format!(
            "machine: {}\nserver:  Temporal {} (start-dev), database in {}, dynamic configuration: \
             {config}, search attributes: {}; a fresh one for each row\nworker:  {} cached \
             workflows, {} workflow task slots, {} local activity slots; in a process of its own\n",
            self.machine,
            server.version,
            server.database,
            server.search_attributes.join(", "),
            worker.cached_workflows,
            worker.workflow_task_slots,
            worker.local_activity_slots,
        )
    }

    fn cascades(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED).set_header([
            "shape",
            "nodes",
            "upsert",
            "tree ms",
            "limit ms",
            "ratio",
            "root",
            "inner",
            "leaf",
            "KiB/workflow",
        ]);
        for cascade in &self.cascades {
            let adds = |role| match cascade.adds.get(&role) {
                Some(adds) => format!("{}/{}", adds.events, adds.workflow_tasks),
                None => String::new(),
            };
            table.add_row([
                cascade.shape.clone(),
                cascade.nodes.to_string(),
                if cascade.upsert { "with" } else { "without" }.to_owned(),
                format!("{:.0}", cascade.tree_median_ms),
                format!("{:.0}", cascade.limit_median_ms),
                format!("{:.2}", cascade.ratio),
                adds(Role::Root),
                adds(Role::Inner),
                adds(Role::Leaf),
                format!("{:.0}", cascade.bytes_per_workflow / 1024),
            ]);
        }
        table
    }
}
