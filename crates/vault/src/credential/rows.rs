//! What the seals of credentials cover, and what their ciphertexts are bound to.

use super::{
    Binding, BindingRow, Credential, CredentialRow, CredentialVersion, CredentialVersionRow, OAuth,
    OAuthGrant, Provided, SourceRow, Supply,
};
use crate::{
    SecretId, VaultError,
    derived::Derived,
    rows::{intact, place_of_key},
    storage::Purpose,
};
use xylem_grant::UnixSeconds;
use xylem_ids::{CredentialName, KeyId, Namespace};
use xylem_seal::Fields;

impl Derived {
    pub(crate) fn seal_credential(
        &self,
        credential: Credential,
        data_key: Option<KeyId>,
    ) -> CredentialRow {
        let mac = self.mac(&credential_fields(&credential, data_key.as_ref()));
        CredentialRow {
            credential,
            data_key,
            mac,
        }
    }

    pub(crate) fn check_credential(&self, row: CredentialRow) -> Result<CredentialRow, VaultError> {
        let expected = self.mac(&credential_fields(&row.credential, row.data_key.as_ref()));
        intact(expected, row.mac, "credential", &row.credential.name)?;
        Ok(row)
    }

    pub(crate) fn seal_credential_version(
        &self,
        info: CredentialVersion,
        secret: Option<SecretId>,
    ) -> CredentialVersionRow {
        let mac = self.mac(&version_fields(&info, secret.as_ref()));
        CredentialVersionRow { info, secret, mac }
    }

    pub(crate) fn check_credential_version(
        &self,
        row: CredentialVersionRow,
    ) -> Result<CredentialVersionRow, VaultError> {
        let expected = self.mac(&version_fields(&row.info, row.secret.as_ref()));
        let which = version_place(&row.info);
        intact(expected, row.mac, "version of credential", which)?;
        Ok(row)
    }

    pub(crate) fn seal_source(&self, mut row: SourceRow) -> SourceRow {
        row.mac = self.mac(&source_fields(&row));
        row
    }

    pub(crate) fn check_source(&self, row: SourceRow) -> Result<SourceRow, VaultError> {
        let expected = self.mac(&source_fields(&row));
        intact(expected, row.mac, "source of credential", &row.name)?;
        Ok(row)
    }

    pub(crate) fn seal_binding(&self, binding: Binding) -> BindingRow {
        let mac = self.mac(&binding_fields(&binding));
        BindingRow { binding, mac }
    }

    pub(crate) fn check_binding(&self, row: BindingRow) -> Result<BindingRow, VaultError> {
        let expected = self.mac(&binding_fields(&row.binding));
        let slot = &row.binding.slot;
        intact(expected, row.mac, "credential binding of slot", slot)?;
        Ok(row)
    }
}

/// How an error names a version.
pub(crate) fn version_place(info: &CredentialVersion) -> String {
    format!("{}@{}", info.name, info.version)
}

/// What the ciphertext of a value is bound to.
pub(crate) fn value_place(info: &CredentialVersion, data_key: &KeyId) -> Fields {
    Fields::new("xylem credential")
        .text(info.namespace.as_str())
        .text(info.name.as_str())
        .number(info.version.0)
        .text(data_key.as_str())
}

/// What the ciphertexts of what it is obtained with are bound to.
pub(crate) fn source_place(credential: &Credential, data_key: &KeyId) -> Fields {
    Fields::new("xylem credential source")
        .text(credential.namespace.as_str())
        .text(credential.name.as_str())
        .text(data_key.as_str())
}

/// What a credential's wrapped data key is bound to.
pub(crate) fn data_key_place(namespace: &Namespace, name: &CredentialName, id: &KeyId) -> Fields {
    place_of_key(Purpose::Credential, id, 0)
        .text(namespace.as_str())
        .text(name.as_str())
}

fn credential_fields(credential: &Credential, data_key: Option<&KeyId>) -> Fields {
    let audiences: Vec<String> = credential
        .audiences
        .iter()
        .map(ToString::to_string)
        .collect();
    let fields = Fields::new("credential")
        .text(credential.namespace.as_str())
        .text(credential.name.as_str())
        .text(credential.owner.as_str())
        .list(audiences.iter().map(String::as_str))
        .number(credential.last)
        .number(credential.created_at.0);
    let every = credential.rotate_every.map(|every| every.as_secs());
    let fields = optional(fields, every);
    optional(fields, credential.removed_at.map(|at| at.0)).optional(data_key.map(KeyId::as_str))
}

fn version_fields(info: &CredentialVersion, secret: Option<&SecretId>) -> Fields {
    let fields = Fields::new("credential version")
        .text(info.namespace.as_str())
        .text(info.name.as_str())
        .number(info.version.0)
        .text(info.state.code())
        .number(info.state_since.0)
        .text(info.fingerprint.as_str())
        .text(info.depositor.as_str())
        .number(info.deposited_at.0)
        .text(info.request.as_str());
    let expires_at = info.expires_at.map(|UnixSeconds(at)| at);
    optional(fields, expires_at).optional(secret.map(SecretId::as_str))
}

fn source_fields(row: &SourceRow) -> Fields {
    match &row.source.supply {
        Supply::OAuth(oauth) => oauth_fields(row, oauth),
        Supply::Provider(provided) => provided_fields(row, provided),
    }
}

fn provided_fields(row: &SourceRow, provided: &Provided) -> Fields {
    Fields::new("provided credential source")
        .text(row.namespace.as_str())
        .text(row.name.as_str())
        .text(&provided.name)
        .optional(provided.probe_url.as_deref())
        .number(u32::from(provided.revoke_old))
        .optional(row.source.broken.as_ref().map(|reason| reason.as_str()))
}

fn oauth_fields(row: &SourceRow, oauth: &OAuth) -> Fields {
    let grant = match oauth.grant {
        OAuthGrant::ClientCredentials => "client_credentials",
        OAuthGrant::RefreshToken => "refresh_token",
    };
    // What an older version wrote has neither of the last two, and keeps its seal.
    let plain = oauth.probe_url.is_none() && !oauth.revoke_old;
    let label = match plain {
        true => "credential source",
        false => "kept credential source",
    };
    let fields = Fields::new(label)
        .text(row.namespace.as_str())
        .text(row.name.as_str())
        .text(&oauth.token_url)
        .text(grant)
        .text(&oauth.client_id)
        .number(u32::from(oauth.secret_in_form))
        .list(oauth.scopes.iter().map(String::as_str))
        .optional(oauth.resource.as_deref());
    let fields = optional(fields, oauth.assume_lifetime)
        .optional(row.source.broken.as_ref().map(|reason| reason.as_str()))
        .text(row.client.as_ref().map_or("", SecretId::as_str))
        .optional(row.refresh.as_ref().map(SecretId::as_str));
    if plain {
        return fields;
    }
    fields
        .optional(oauth.probe_url.as_deref())
        .number(u32::from(oauth.revoke_old))
}

fn binding_fields(binding: &Binding) -> Fields {
    Fields::new("credential binding")
        .text(binding.namespace.as_str())
        .text(binding.workflow_type.as_str())
        .text(binding.slot.as_str())
        .text(binding.credential.as_str())
        .text(binding.created_by.as_str())
        .number(binding.created_at.0)
}

fn optional(fields: Fields, number: Option<u64>) -> Fields {
    match number {
        Some(number) => fields.number(1_u32).number(number),
        None => fields.number(0_u32),
    }
}
