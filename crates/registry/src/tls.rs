//! Who the server of a tool has to be.

use crate::{Invalid, ToolDefinition};
use rustls_pki_types::{
    CertificateDer,
    pem::{PemObject, SectionKind},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use url::Url;
use webpki::anchor_from_trusted_cert;
use xylem_ids::KeyPin;

const MAX_AUTHORITY_BYTES: usize = 32 * 1024;
const MAX_CERTIFICATES: usize = 10;
const MAX_PINS: usize = 10;

/// What a server's certificate has to be, beside valid. Workers check it before they send anything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificates that a chain has to end with, PEM, in place of those that the worker's system
    /// trusts; 1 to 10, at most 32 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// Keys of which the chain has to have one; any where empty, at most 10.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub pins: BTreeSet<KeyPin>,
}

/// Checks what a definition says of its server.
pub(crate) fn check_tls(definition: &ToolDefinition) -> Result<(), Invalid> {
    let Some(Tls { ca_pem, pins }) = &definition.tls else {
        return Ok(());
    };
    if ca_pem.is_none() && pins.is_empty() {
        return Err(Invalid::new("tls", "a CA, pins or both, or absent"));
    }
    if pins.len() > MAX_PINS {
        return Err(Invalid::new("tls.pins", "at most 10"));
    }
    if ca_pem.as_ref().is_some_and(|pem| !is_authority(pem)) {
        return Err(Invalid::new(
            "tls.ca_pem",
            "1 to 10 certificates in PEM, nothing else in PEM, at most 32 KiB",
        ));
    }
    // Elsewhere there is no certificate, and a workflow could leave out the check by its apiUrl.
    let base = Url::parse(&definition.base_url);
    let urls = definition.api_urls.iter();
    let mut urls = urls.map(|audience| Url::parse(audience.origin().as_str()));
    let encrypted = |url: Result<Url, _>| url.is_ok_and(|url| url.scheme() == "https");
    if !(encrypted(base) && urls.all(encrypted)) {
        return Err(Invalid::new(
            "tls",
            "absent where the base URL or an apiUrl is not https: there is no certificate to check",
        ));
    }
    Ok(())
}

/// Whether a text is certificates. A private key that got into it would be shown to everybody, so that
/// whatever else has the form of one is refused.
fn is_authority(pem: &str) -> bool {
    if pem.len() > MAX_AUTHORITY_BYTES {
        return false;
    }
    let sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes());
    let certificate = |section: Result<(SectionKind, Vec<u8>), _>| match section {
        Ok((SectionKind::Certificate, der)) => {
            anchor_from_trusted_cert(&CertificateDer::from(der)).is_ok()
        }
        _ => false,
    };
    let read: Vec<bool> = sections.map(certificate).collect();
    (1..=MAX_CERTIFICATES).contains(&read.len())
        && read.iter().all(|certificate| *certificate)
        && pem.matches("-----BEGIN ").count() == read.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Auth, Method, Tool};
    use rcgen::{CertificateParams, KeyPair};
    use serde_json::json;

    const PIN: &str = "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

    fn definition(tls: Tls) -> ToolDefinition {
        ToolDefinition {
            tls: Some(tls),
            ..serde_json::from_value(json!({
                "name": "acme.deploy",
                "base_url": "https://api.acme.example",
                "path": "/deploys",
                "method": Method::Get,
                "auth": Auth::None,
                "parameters": { "type": "object" },
                "timeout_seconds": 10,
                "max_response_bytes": 65536,
            }))
            .unwrap()
        }
    }

    fn field_of(definition: ToolDefinition) -> &'static str {
        Tool::new(definition).expect_err("refused").field()
    }

    fn pinned() -> Tls {
        Tls {
            pins: BTreeSet::from([PIN.parse().unwrap()]),
            ..Tls::default()
        }
    }

    fn certificate() -> (String, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(Vec::new()).unwrap();
        (certificate.self_signed(&key).unwrap().pem(), key)
    }

    fn under(ca_pem: String) -> Tls {
        Tls {
            ca_pem: Some(ca_pem),
            ..Tls::default()
        }
    }

    #[test]
    fn an_authority_is_a_few_certificates_and_nothing_else() {
        let (one, key) = certificate();
        let described = format!("# the CA of Acme\n{one}\n{}", certificate().0);
        for fine in [one.clone(), described, one.repeat(10)] {
            assert!(Tool::new(definition(under(fine))).is_ok());
        }
        let key = key.serialize_pem();
        let other = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        for wrong in [
            String::new(),
            "MIIB".to_owned(),
            one.repeat(11),
            one.replace("MII", "AAA"),
            one.replace("-----END", "-----"),
            format!("{one}{key}"),
            format!("{one}{other}"),
            format!("{one}{}", " ".repeat(MAX_AUTHORITY_BYTES)),
        ] {
            let refused = Tool::new(definition(under(wrong.clone()))).unwrap_err();
            assert_eq!(refused.field(), "tls.ca_pem", "{wrong}");
            assert!(!refused.to_string().contains("PRIVATE"));
        }
    }

    #[test]
    fn pins_are_few_and_one_of_both_is_given() {
        assert!(Tool::new(definition(pinned())).is_ok());
        assert_eq!(field_of(definition(Tls::default())), "tls");
        let many = ('A'..='K').map(|first| {
            let digits = "A".repeat(42);
            format!("sha256/{first}{digits}=").parse()
        });
        let pins: Result<BTreeSet<KeyPin>, _> = many.collect();
        let tls = Tls {
            pins: pins.unwrap(),
            ..Tls::default()
        };
        assert_eq!(field_of(definition(tls)), "tls.pins");
    }

    #[test]
    fn there_is_no_way_around_it_without_encryption() {
        let mut plain = definition(pinned());
        plain.base_url = "http://127.0.0.1:8080".into();
        assert_eq!(field_of(plain), "tls");
        let mut beside = definition(pinned());
        beside.api_urls = vec!["http://localhost:1".parse().unwrap()];
        assert_eq!(field_of(beside), "tls");
    }

    #[test]
    fn all_of_it_is_in_the_hash() {
        let (one, other) = (certificate().0, certificate().0);
        let more = Tls {
            ca_pem: Some(one.clone()),
            ..pinned()
        };
        let mut without = definition(pinned());
        without.tls = None;
        let all = [pinned(), more, under(one), under(other)].map(definition);
        let hash = |definition| Tool::new(definition).unwrap().hash().clone();
        let hashes = all.into_iter().chain([without]).map(hash);
        assert_eq!(hashes.collect::<BTreeSet<_>>().len(), 5);
    }
}
