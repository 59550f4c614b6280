//! What a train is to do: the inputs of its workflows.

use crate::work::Progress;
use serde::{Deserialize, Serialize};

/// How a workflow goes about its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pace {
    /// How long to pause after each round, in milliseconds.
    pub pause_ms: u64,
    /// How many rounds; without end where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounds: Option<u32>,
    /// Continues as new after so many rounds, however short the history; where absent, when it has
    /// grown long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounds_per_run: Option<u32>,
}

/// The whole train: the root's input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrainPlan {
    /// The stages; empty in a run that has taken them over from an earlier one.
    #[serde(default)]
    pub stages: Vec<StagePlan>,
    /// The pace of every workflow.
    pub pace: Pace,
    /// What earlier runs have done.
    #[serde(default)]
    pub progress: Progress,
}

/// One stage: the input of [`Stage`](crate::Stage), [`Fleet`](crate::Fleet) and
/// [`Paperwork`](crate::Paperwork).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StagePlan {
    /// The last part of its workflow id.
    pub name: String,
    /// What it does.
    pub kind: StageKind,
    /// The last parts of the workflow ids of its leaves: builds, suites, services, notes.
    #[serde(default)]
    pub leaves: Vec<String>,
    /// Given by the train.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<Pace>,
    /// What earlier runs have done.
    #[serde(default)]
    pub progress: Progress,
}

/// What a stage does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageKind {
    /// Builds.
    Build,
    /// Tests.
    Test,
    /// Deploys.
    Deploy,
    /// Writes release notes.
    Paperwork,
}

/// The input of a leaf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Task {
    /// The build, suite, service or note.
    pub subject: String,
    /// How to go about it.
    pub pace: Pace,
    /// What earlier runs have done.
    #[serde(default)]
    pub progress: Progress,
}

impl Pace {
    /// Without end, once a second.
    #[must_use]
    pub fn steady() -> Self {
        Self {
            pause_ms: 1_000,
            rounds: None,
            rounds_per_run: None,
        }
    }
}

impl TrainPlan {
    /// A train of 47 workflows in three levels.
    #[must_use]
    pub fn standard(pace: Pace) -> Self {
        let stage = |name: &str, kind, leaves: &[&str]| StagePlan {
            name: name.to_owned(),
            kind,
            leaves: leaves.iter().map(|&leaf| leaf.to_owned()).collect(),
            pace: None,
            progress: Progress::default(),
        };
        let services = [
            "api", "billing", "catalog", "login", "mail", "search", "web",
        ];
        let builds = [
            "api", "billing", "catalog", "docs", "login", "mail", "search", "web",
        ];
        let suites = [
            "unit",
            "integration",
            "contract",
            "browser",
            "load",
            "fuzz",
            "upgrade",
            "security",
        ];
        let smoke = ["checkout", "signup", "login", "search", "mail", "invoice"];
        let notes = ["changelog", "support", "press", "audit"];
        Self {
            stages: vec![
                stage("build", StageKind::Build, &builds),
                stage("test", StageKind::Test, &suites),
                stage("smoke", StageKind::Test, &smoke),
                stage("fleet-eu", StageKind::Deploy, &services),
                stage("fleet-us", StageKind::Deploy, &services),
                stage("paperwork", StageKind::Paperwork, &notes),
            ],
            pace,
            progress: Progress::default(),
        }
    }

    /// How many workflows the train consists of, itself included.
    #[must_use]
    pub fn nodes(&self) -> usize {
        let stages = self.stages.iter();
        1 + stages.map(|stage| 1 + stage.leaves.len()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_train_has_at_least_40_workflows() {
        let plan = TrainPlan::standard(Pace::steady());
        assert_eq!(plan.nodes(), 47);
    }

    #[test]
    fn the_plan_in_the_package_is_the_standard_one() {
        let plan: TrainPlan = serde_json::from_str(include_str!("../train.json")).expect("a plan");
        assert_eq!(plan, TrainPlan::standard(Pace::steady()));
    }

    #[test]
    fn a_plan_is_read_as_people_write_it() {
        let text = r#"{"pace":{"pauseMs":500},"stages":[{"name":"build","kind":"build","leaves":["api"]}]}"#;
        let plan: TrainPlan = serde_json::from_str(text).expect("a plan");
        assert_eq!(plan.nodes(), 3);
        assert_eq!(plan.pace.rounds, None);
    }
}
