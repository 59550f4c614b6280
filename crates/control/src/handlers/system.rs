//! The control plane itself.

use super::{Handlers, answer};
use crate::{caller::caller, fault::Fault};
use tonic::{Request, Response, Status};
use v1::system_server::System;
use xylem_proto::v1;

#[tonic::async_trait]
impl System for Handlers {
    async fn get_status(
        &self,
        _: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::SystemStatus>, Status> {
        answer(self.status().await)
    }
}

impl Handlers {
    async fn status(&self) -> Result<v1::SystemStatus, Fault> {
        let principal = caller()?;
        let roles = principal.roles().iter();
        Ok(v1::SystemStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            namespace: self.settings.namespace.to_string(),
            agent: principal.agent().to_string(),
            roles: roles.map(|role| role.code().to_owned()).collect(),
            checks: self.checks().await,
        })
    }
}
