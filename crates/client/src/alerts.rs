//! Alerts.

use crate::{
    Client, Error,
    client::{CALL_TIMEOUT, call},
};
use v1::alerts_client::AlertsClient;
use xylem_proto::v1;

impl Client {
    /// One page of alerts, oldest first.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a field breaks its rule, else as the control plane's status maps.
    pub async fn list_alerts(
        &self,
        request: v1::ListAlertsRequest,
    ) -> Result<v1::ListAlertsResponse, Error> {
        let mut alerts = AlertsClient::new(self.channel.clone());
        call(request, CALL_TIMEOUT, |request| alerts.list_alerts(request)).await
    }
}
