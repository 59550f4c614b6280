//! What policy administrators ask, and whoever wants to know why.

use crate::{
    Client, Error,
    client::{CALL_TIMEOUT, call},
};
use v1::policies_client::PoliciesClient;
use xylem_ids::PolicyName;
use xylem_proto::v1;

/// Policies.
impl Client {
    /// Stores a new policy.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field; [`Error::Conflict`] where the name is taken.
    pub async fn create_policy(&self, policy: v1::Policy) -> Result<v1::PolicyRecord, Error> {
        let message = v1::CreatePolicyRequest {
            policy: Some(policy),
        };
        let mut policies = PoliciesClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| {
            policies.create_policy(request)
        })
        .await
    }

    /// Stores the next version of a policy.
    ///
    /// # Errors
    /// [`Error::Conflict`] where its version is not the expected one.
    pub async fn update_policy(
        &self,
        policy: v1::Policy,
        expected_version: Option<u32>,
    ) -> Result<v1::PolicyRecord, Error> {
        let message = v1::UpdatePolicyRequest {
            name: policy.name.clone(),
            policy: Some(policy),
            expected_version,
        };
        let mut policies = PoliciesClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| {
            policies.update_policy(request)
        })
        .await
    }

    /// Has a policy hold no more.
    ///
    /// # Errors
    /// [`Error::Refused`] where others inherit from it.
    pub async fn retire_policy(
        &self,
        name: &PolicyName,
        expected_version: Option<u32>,
        note: &str,
    ) -> Result<v1::PolicyRecord, Error> {
        let message = v1::RetirePolicyRequest {
            name: name.to_string(),
            expected_version,
            note: note.to_owned(),
        };
        let mut policies = PoliciesClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| {
            policies.retire_policy(request)
        })
        .await
    }

    /// One policy.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is none of that name and version.
    pub async fn get_policy(
        &self,
        name: &PolicyName,
        version: Option<u32>,
    ) -> Result<v1::PolicyRecord, Error> {
        let message = v1::GetPolicyRequest {
            name: name.to_string(),
            version,
        };
        let mut policies = PoliciesClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| {
            policies.get_policy(request)
        })
        .await
    }

    /// One page of policies by name.
    ///
    /// # Errors
    /// As the control plane's status maps.
    pub async fn list_policies(
        &self,
        request: v1::ListPoliciesRequest,
    ) -> Result<v1::ListPoliciesResponse, Error> {
        let mut policies = PoliciesClient::new(self.channel.clone());
        call(request, CALL_TIMEOUT, |request| {
            policies.list_policies(request)
        })
        .await
    }

    /// The Cedar schema that policies are checked against.
    ///
    /// # Errors
    /// As the control plane's status maps.
    pub async fn policy_schema(&self) -> Result<String, Error> {
        let message = v1::GetPolicySchemaRequest {};
        let mut policies = PoliciesClient::new(self.channel.clone());
        let answer = call(message, CALL_TIMEOUT, |request| {
            policies.get_policy_schema(request)
        });
        Ok(answer.await?.cedar)
    }

    /// What would be decided about a call, and why.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no such tool.
    pub async fn check_access(
        &self,
        request: v1::CheckAccessRequest,
    ) -> Result<v1::CheckAccessResponse, Error> {
        let mut policies = PoliciesClient::new(self.channel.clone());
        call(request, CALL_TIMEOUT, |request| {
            policies.check_access(request)
        })
        .await
    }
}
