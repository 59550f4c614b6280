//! The place every call passes, whichever way it came.

use crate::v1::Rpc;
use std::{future::Future, sync::Arc};
use tonic::{Response, Status};

/// Decides about a call before its handler runs, and sees how it ended.
pub trait Gate: Clone + Send + Sync + 'static {
    /// Runs `call`, or refuses without running it.
    fn pass<T: Send>(
        &self,
        rpc: Rpc,
        call: impl Future<Output = Result<Response<T>, Status>> + Send,
    ) -> impl Future<Output = Result<Response<T>, Status>> + Send;
}

/// A service behind a gate. It implements the same service, and none of its handlers can be
/// reached without passing the gate.
#[derive(Debug)]
pub struct Gated<S, G> {
    pub(crate) service: Arc<S>,
    pub(crate) gate: G,
}

impl<S, G: Gate> Gated<S, G> {
    /// Puts the gate in front of the service.
    #[must_use]
    pub fn new(service: Arc<S>, gate: G) -> Self {
        Self { service, gate }
    }
}

impl<S, G: Clone> Clone for Gated<S, G> {
    fn clone(&self) -> Self {
        Self {
            service: Arc::clone(&self.service),
            gate: self.gate.clone(),
        }
    }
}
