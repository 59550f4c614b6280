//! Whom a client of the control plane trusts over TLS, and what it shows of its own.

use crate::data::{self, DataError};
use reqwest::{Certificate, ClientBuilder, Identity};
use secrecy::ExposeSecret;
use std::{
    env,
    path::{Path, PathBuf},
};
use xylem_client::Tls;

/// The files that TLS to the control plane goes by.
#[derive(Debug, Clone, PartialEq, Eq, Default, clap::Args)]
pub(crate) struct Trust {
    /// The CA certificates that the control plane's is checked against, PEM [default: the system's]
    #[arg(long, global = true, env = "XYLEM_CA_FILE", hide_env_values = true)]
    #[arg(value_name = "FILE", help_heading = "Global options")]
    ca_file: Option<PathBuf>,
    /// A certificate to show to the control plane, PEM, where it asks for one
    #[arg(
        long,
        global = true,
        env = "XYLEM_CLIENT_CERT_FILE",
        hide_env_values = true
    )]
    #[arg(value_name = "FILE", help_heading = "Global options")]
    #[arg(requires = "client_key_file")]
    client_cert_file: Option<PathBuf>,
    /// The key of that certificate, PEM
    #[arg(
        long,
        global = true,
        env = "XYLEM_CLIENT_KEY_FILE",
        hide_env_values = true
    )]
    #[arg(value_name = "FILE", help_heading = "Global options")]
    #[arg(requires = "client_cert_file")]
    client_key_file: Option<PathBuf>,
}

impl Trust {
    /// As the environment says.
    pub(crate) fn from_environment() -> Self {
        let file = |name| {
            let value = env::var_os(name).filter(|value| !value.is_empty());
            value.map(PathBuf::from)
        };
        Self {
            ca_file: file("XYLEM_CA_FILE"),
            client_cert_file: file("XYLEM_CLIENT_CERT_FILE"),
            client_key_file: file("XYLEM_CLIENT_KEY_FILE"),
        }
    }

    /// For the typed client.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn tls(&self) -> Result<Tls, DataError> {
        let mut tls = Tls::new();
        if let Some(ca) = &self.ca_file {
            tls = tls.with_ca(read(ca)?);
        }
        if let Some((certificate, key)) = self.identity() {
            tls = tls.with_identity(read(certificate)?, &data::read_pem_key(key)?);
        }
        Ok(tls)
    }

    /// For plain HTTP requests. Like the typed client they ask no proxy that the environment names: passwords
    /// and tokens are for the control plane alone.
    ///
    /// # Errors
    /// A file cannot be read, or does not hold what it should.
    pub(crate) fn http(&self) -> Result<ClientBuilder, DataError> {
        let mut builder = reqwest::Client::builder().no_proxy();
        if let Some(ca) = &self.ca_file {
            let certificates = Certificate::from_pem_bundle(&read(ca)?);
            let certificates = certificates.map_err(|_| not_pem(ca))?;
            builder = builder.tls_certs_only(certificates);
        }
        if let Some((certificate, key)) = self.identity() {
            let mut both = zeroize::Zeroizing::new(read(certificate)?);
            both.extend_from_slice(data::read_pem_key(key)?.expose_secret().as_bytes());
            let identity = Identity::from_pem(&both).map_err(|_| not_pem(certificate))?;
            builder = builder.identity(identity);
        }
        Ok(builder)
    }

    fn identity(&self) -> Option<(&Path, &Path)> {
        let certificate = self.client_cert_file.as_deref()?;
        Some((certificate, self.client_key_file.as_deref()?))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    std::fs::read(path).map_err(|source| DataError::io("read", path, source))
}

fn not_pem(path: &Path) -> DataError {
    DataError::Content {
        path: path.to_owned(),
        what: "holds no certificate: expected PEM",
    }
}
