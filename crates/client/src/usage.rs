//! How often tools were called.

use crate::{
    Client, Error,
    client::{CALL_TIMEOUT, call},
};
use v1::usage_client::UsageClient;
use xylem_proto::v1;

impl Client {
    /// One page of usage, in the order of time, agent and tool.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a field breaks its rule, else as the control plane's status maps.
    pub async fn list_usage(
        &self,
        request: v1::ListUsageRequest,
    ) -> Result<v1::ListUsageResponse, Error> {
        let mut usage = UsageClient::new(self.channel.clone());
        call(request, CALL_TIMEOUT, |request| usage.list_usage(request)).await
    }
}
