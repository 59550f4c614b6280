//! What a workflow type declares, and how types reach a worker.

use crate::interceptor;
use std::{collections::BTreeSet, sync::Arc};
use temporalio_common::WorkflowDefinition;
use temporalio_sdk::{WorkerOptions, WorkflowRegistrationError};
use temporalio_workflow::{
    workflow_interceptors::WorkflowInterceptorConstructor, workflows::WorkflowImplementation,
};
use xylem_ids::{IdError, Slot, WorkflowType};

/// A workflow whose impl block bears `#[stateful]`; the attribute implements this trait.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a StatefulWorkflow",
    label = "this workflow type has no node",
    note = "put `#[stateful(slots(\"default\"))]` above `#[workflow_methods]` on its impl block, or start it with the SDK's own `start_child_workflow`: it gets no token then"
)]
pub trait StatefulWorkflow: WorkflowDefinition {
    /// The slots whose tokens its tool calls use.
    const SLOTS: &'static [&'static str];
    /// The slots it passes on to children and may not use itself.
    const TRANSIT: &'static [&'static str];
}

/// What one workflow type declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The type's name at Temporal.
    pub workflow_type: WorkflowType,
    /// The slots it may redeem.
    pub slots: BTreeSet<Slot>,
    /// The slots it only passes on.
    pub transit: BTreeSet<Slot>,
}

impl Definition {
    /// The slots a node of this type takes grants for: those it uses and those it passes on.
    #[must_use]
    pub fn takes(&self) -> BTreeSet<Slot> {
        self.slots.union(&self.transit).cloned().collect()
    }

    pub(crate) fn of<W: StatefulWorkflow>(name: &str) -> Result<Self, IdError> {
        Ok(Self {
            workflow_type: name.parse()?,
            slots: parse(W::SLOTS)?,
            transit: parse(W::TRANSIT)?,
        })
    }
}

fn parse(names: &[&str]) -> Result<BTreeSet<Slot>, IdError> {
    names.iter().map(|name| name.parse()).collect()
}

/// Why workflows could not be registered with a worker.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The type's name or one of its slots breaks a rule.
    #[error("the workflow type cannot be registered")]
    Name(#[from] IdError),
    /// The SDK refused it.
    #[error("the worker refused the workflow type")]
    Worker(#[from] WorkflowRegistrationError),
}

type Register = dyn Fn(&mut WorkerOptions) -> Result<(), WorkflowRegistrationError> + Send + Sync;

/// The StatefulWorkflow types of a worker.
///
/// ```text
/// let workflows = Workflows::default().with::<Train>()?.with::<Stage>()?;
/// workflows.install(&mut worker_options)?;
/// ```
#[derive(Clone, Default)]
pub struct Workflows {
    definitions: Vec<Definition>,
    register: Vec<Arc<Register>>,
}

impl Workflows {
    /// Adds a workflow type.
    ///
    /// # Errors
    /// The type's name is not a workflow type.
    pub fn with<W>(mut self) -> Result<Self, RegisterError>
    where
        W: StatefulWorkflow + WorkflowImplementation,
        <W as WorkflowImplementation>::Run: StatefulWorkflow,
        <<W as WorkflowImplementation>::Run as WorkflowDefinition>::Input: Send,
    {
        let name = <W as WorkflowImplementation>::name();
        self.definitions.push(Definition::of::<W>(name)?);
        self.register.push(Arc::new(|options| {
            options.register_workflow::<W>().map(drop)
        }));
        Ok(self)
    }

    /// Adds all types of another set.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.definitions.extend(other.definitions);
        self.register.extend(other.register);
        self
    }

    /// What the types declare: for the control plane, which lets a node redeem declared slots only.
    #[must_use]
    pub fn definitions(&self) -> &[Definition] {
        &self.definitions
    }

    /// Registers the types, and what makes nodes of them, with a worker.
    ///
    /// # Errors
    /// A type is registered twice.
    pub fn install(&self, options: &mut WorkerOptions) -> Result<(), RegisterError> {
        for register in &self.register {
            register(options)?;
        }
        options.workflow_interceptor(self.interceptor());
        Ok(())
    }

    /// What makes nodes of the types; needed by itself to replay histories.
    #[must_use]
    pub fn interceptor(&self) -> WorkflowInterceptorConstructor {
        interceptor::constructor(self.definitions.clone())
    }
}
