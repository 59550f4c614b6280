//! How fast a rotation reaches a tree, what it adds to histories, and what a worker needs for it.
//!
//! The limit is measured in the same run: the same definition, header and grants as idle workflows
//! without a tree, signalled by a client directly. A figure is the median of five rotations, after
//! three that warm everything up; tree and limit take turns.

mod forest;
mod report;
mod shape;
mod stand;
mod worker;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use forest::{Added, convergence_ms, most};
use report::{Adds, Burst, Cascade, Report, Server, WorkerSettings, count};
use shape::{Node, Role, Shape};
use stand::Stand;
use std::{
    collections::BTreeMap,
    io::{self, Write},
    process::ExitCode,
};
use xylem::worker::WorkerSlots;
use xylem_bench::{Machine, Output, median, missed};
use xylem_testkit::TemporalServer;

/// What is measured unless told otherwise.
const SHAPES: [&str; 4] = ["10,10", "500", "10,10,10", "1500"];

/// The tree that is rotated as fast as possible.
const BURST_SHAPE: &str = "10,10,10";

/// How often.
const BURST: u32 = 100;

/// Rotations before those that are timed: server and worker get faster over the first few.
const WARM_UPS: u32 = 3;

/// Rotations whose median is the figure.
const ROTATIONS: u32 = 5;

/// Measures cascades on a Temporal server of its own.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    /// What standard output carries.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Measures this shape only: children per level. Can be repeated.
    #[arg(long = "shape")]
    shapes: Vec<Shape>,
}

#[derive(Subcommand)]
enum Command {
    /// The worker that the benchmark starts for itself.
    #[command(hide = true)]
    Worker {
        #[arg(long)]
        address: String,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let done = match &options.command {
        Some(Command::Worker { address }) => worker::work(address).await.map(|()| true),
        None => measure(&options).await,
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// On standard error: standard output carries the figures.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Measures, prints, and says whether every bar is met.
async fn measure(options: &Options) -> Result<bool> {
    let mut report = Report {
        machine: Machine::this(),
        server: server().await?,
        worker: worker_settings(),
        cascades: Vec::new(),
        burst: None,
        bars: Vec::new(),
    };
    let shapes = match &*options.shapes {
        [] => SHAPES.iter().map(|text| text.parse()).collect(),
        named => Ok(named.to_vec()),
    };
    for shape in shapes.map_err(anyhow::Error::msg)? {
        for upsert in [true, false] {
            let what = format!("{shape} {} upsert", if upsert { "with" } else { "without" });
            let (cascade, burst) = measure_one(&shape, upsert, &what).await.context(what)?;
            report.bars.extend(cascade.bars());
            report.cascades.push(cascade);
            report.bars.extend(burst.iter().flat_map(Burst::bars));
            report.burst = report.burst.or(burst);
        }
    }
    let mut stdout = io::stdout();
    match options.output {
        Output::Text => writeln!(stdout, "{}", report.text())?,
        Output::Json => writeln!(stdout, "{}", serde_json::to_string_pretty(&report)?)?,
    }
    Ok(missed(&report.bars) == 0)
}

async fn measure_one(shape: &Shape, upsert: bool, what: &str) -> Result<(Cascade, Option<Burst>)> {
    say(&format!("{what}: starting"));
    let mut stand = Stand::start(shape, upsert).await?;
    let nodes = stand.nodes.nodes.clone();
    let (mut tree_ms, mut limit_ms) = (Vec::new(), Vec::new());
    let mut adds = BTreeMap::new();
    // The stand has made the first one.
    for version in 2..=WARM_UPS {
        stand.rotate_tree(version).await?;
        stand.rotate_idle(version).await?;
    }
    let last = WARM_UPS + ROTATIONS;
    for version in 1 + WARM_UPS..=last {
        let all = stand.rotate_tree(version).await?;
        note_most(&mut adds, &nodes, &all);
        let tree = convergence_ms(&all);
        let limit = convergence_ms(&stand.rotate_idle(version).await?);
        say(&format!("{what}: {tree:.0} ms, limit {limit:.0} ms"));
        tree_ms.push(tree);
        limit_ms.push(limit);
    }
    let burst = if upsert && shape.to_string() == BURST_SHAPE {
        Some(burst(&mut stand, last + 1).await?)
    } else {
        stand.ask(last).await?;
        None
    };
    let (tree_median_ms, limit_median_ms) = (median(&tree_ms), median(&limit_ms));
    let cascade = Cascade {
        shape: shape.to_string(),
        nodes: nodes.len(),
        widest: shape.widest(),
        upsert,
        ratio: tree_median_ms / limit_median_ms,
        tree_ms,
        tree_median_ms,
        limit_ms,
        limit_median_ms,
        adds,
        bytes_per_workflow: stand.bytes_per_workflow,
    };
    Ok((cascade, burst))
}

/// Keeps the most that any rotation added to any node of each role.
fn note_most(adds: &mut BTreeMap<Role, Adds>, nodes: &[Node], all: &[Added]) {
    for role in [Role::Root, Role::Inner, Role::Leaf] {
        let Some((events, workflow_tasks)) = most(nodes, all, role) else {
            continue;
        };
        let most = adds.entry(role).or_default();
        most.events = most.events.max(events);
        most.workflow_tasks = most.workflow_tasks.max(workflow_tasks);
    }
}

async fn burst(stand: &mut Stand, first: u32) -> Result<Burst> {
    say(&format!("{BURST_SHAPE}: {BURST} rotations at once"));
    let (sending, all) = stand.burst(first, BURST).await?;
    let last = [format!("default@{}", first + BURST - 1)];
    let adoptions: usize = all.iter().map(|added| added.upserts).sum();
    Ok(Burst {
        shape: BURST_SHAPE.to_owned(),
        rotations: BURST,
        sent_in_ms: sending.as_secs_f64() * 1e3,
        converged_in_ms: convergence_ms(&all),
        nodes: all.len(),
        nodes_on_last_version: all.iter().filter(|added| added.held == last).count(),
        adoptions_per_node: count(adoptions) / count(all.len()),
    })
}

async fn server() -> Result<Server> {
    let server = TemporalServer::start_with(&stand::SERVER).await?;
    let arguments = ["operator", "cluster", "system", "--output", "json"];
    let system: serde_json::Value = serde_json::from_str(&server.run_cli(&arguments).await?)?;
    let version = system["serverVersion"].as_str().unwrap_or("unknown");
    let fast = "history.transferProcessorMaxPollRPS=10000".to_owned();
    Ok(Server {
        version: version.to_owned(),
        database: "memory",
        dynamic_config: stand::SERVER
            .fast_transfer_queue
            .then_some(fast)
            .into_iter()
            .collect(),
        search_attributes: vec!["XylemTokens=KeywordList"],
    })
}

fn worker_settings() -> WorkerSettings {
    let slots = WorkerSlots::default();
    WorkerSettings {
        cached_workflows: worker::CACHED_WORKFLOWS,
        workflow_task_slots: slots.workflow_tasks,
        local_activity_slots: slots.local_activities,
    }
}
