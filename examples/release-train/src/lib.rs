//! A release train: what it takes to ship one version of a product, as a tree of workflows.
//!
//! ```text
//! Train                       asks whether the platform is up
//! ├── Stage      build, …     the same for its stage; starts builds and test suites
//! │   ├── Build               asks for the state of a build
//! │   └── Suite               runs a test suite
//! ├── Fleet      fleet-eu, …  calls nothing, so its token is transit: it only passes it on
//! │   └── Rollout             deploys a service
//! └── Paperwork               has no need of the token, and never holds it
//!     └── Note
//! ```
//!
//! Nothing in these definitions deals with a token. They declare slots, start children and call
//! tools; the rest is the library's.

#[expect(
    missing_docs,
    reason = "the SDK macro generates undocumented constants"
)]
mod family;
#[expect(
    missing_docs,
    reason = "the SDK macro generates undocumented constants"
)]
mod leaves;
mod plan;
mod work;

pub use family::{Fleet, Held, Paperwork, Stage, Train};
pub use leaves::{Build, Note, Rollout, Suite};
pub use plan::{Pace, StageKind, StagePlan, Task, TrainPlan};
pub use work::Progress;

use xylem_stateful::{RegisterError, Workflows};

/// The task queue of the train's worker.
pub const TASK_QUEUE: &str = "release-train";

/// The tools that the train calls.
pub const TOOLS: [&str; 4] = ["acme.status", "acme.build", "acme.test", "acme.deploy"];

/// All workflow types of the train.
///
/// # Errors
/// A type's name or slots break a rule, which the tests of this package rule out.
pub fn workflows() -> Result<Workflows, RegisterError> {
    Workflows::default()
        .with::<Train>()?
        .with::<Stage>()?
        .with::<Fleet>()?
        .with::<Paperwork>()?
        .with::<Build>()?
        .with::<Suite>()?
        .with::<Rollout>()?
        .with::<Note>()
}
