//! Asking for access, and saying yes or no.

use crate::{
    Client, Error,
    client::{CALL_TIMEOUT, call},
};
use v1::access_client::AccessClient;
use xylem_ids::AccessId;
use xylem_proto::v1;

/// Access.
impl Client {
    /// Asks for access.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field, and the policies where one of several has to be named.
    pub async fn request_access(
        &self,
        request: v1::RequestAccessRequest,
    ) -> Result<v1::AccessRequest, Error> {
        let mut access = AccessClient::new(self.channel.clone());
        call(request, CALL_TIMEOUT, |request| {
            access.request_access(request)
        })
        .await
    }

    /// One page of requests.
    ///
    /// # Errors
    /// As the control plane's status maps.
    pub async fn list_access_requests(
        &self,
        request: v1::ListAccessRequestsRequest,
    ) -> Result<v1::ListAccessRequestsResponse, Error> {
        let mut access = AccessClient::new(self.channel.clone());
        call(request, CALL_TIMEOUT, |request| {
            access.list_access_requests(request)
        })
        .await
    }

    /// One request.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is none.
    pub async fn get_access_request(&self, id: &AccessId) -> Result<v1::AccessRequest, Error> {
        let message = v1::GetAccessRequestRequest { id: id.to_string() };
        let mut access = AccessClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| {
            access.get_access_request(request)
        })
        .await
    }

    /// Approves or rejects a request.
    ///
    /// # Errors
    /// [`Error::Denied`] where it is one's own; [`Error::Refused`] where it was decided before.
    pub async fn decide_access(
        &self,
        id: &AccessId,
        approve: bool,
        reason: &str,
    ) -> Result<v1::AccessRequest, Error> {
        let message = v1::DecideAccessRequest {
            id: id.to_string(),
            approve,
            reason: reason.to_owned(),
        };
        let mut access = AccessClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| {
            access.decide_access(request)
        })
        .await
    }

    /// Ends an approval before its time, or takes a request back.
    ///
    /// # Errors
    /// [`Error::Refused`] where it is over already.
    pub async fn end_access(
        &self,
        id: &AccessId,
        reason: &str,
    ) -> Result<v1::AccessRequest, Error> {
        let message = v1::EndAccessRequest {
            id: id.to_string(),
            reason: reason.to_owned(),
        };
        let mut access = AccessClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| access.end_access(request)).await
    }
}
