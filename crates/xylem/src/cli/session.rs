//! What a command has at hand: the control plane, the data directory, the output.

use super::{failure::Failure, output::Output};
use crate::{
    data::{self, DataDir, Endpoints},
    signed_in::Place,
    trust::Trust,
};
use secrecy::SecretString;
use std::{env, path::PathBuf};
use xylem_client::Client;

const DEFAULT_ADDRESS: &str = "http://127.0.0.1:7243";

/// The variable that holds an API key.
pub(crate) const KEY_VARIABLE: &str = "XYLEM_API_KEY";

/// Where the control plane is, and who asks.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Access {
    /// The control plane [default: the one of the data directory]
    #[arg(long, global = true, env = "XYLEM_ADDRESS", hide_env_values = true)]
    #[arg(value_name = "URL", help_heading = "Global options")]
    pub(crate) address: Option<String>,
    /// A file with the API key; XYLEM_API_KEY may hold the key itself [default: the
    /// administrator's of the data directory]
    #[arg(long, global = true, env = "XYLEM_KEY_FILE", hide_env_values = true)]
    #[arg(value_name = "FILE", help_heading = "Global options")]
    pub(crate) key_file: Option<PathBuf>,
    /// The data directory of `xylem dev` or `xylem server` [default: that of `xylem dev`]
    #[arg(long, global = true, env = "XYLEM_DATA_DIR", hide_env_values = true)]
    #[arg(value_name = "DIRECTORY", help_heading = "Global options")]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) trust: Trust,
}

impl Access {
    /// The data directory; `standard` where none is named.
    pub(crate) fn data_or(
        &self,
        standard: fn() -> Result<DataDir, data::DataError>,
    ) -> Result<DataDir, Failure> {
        match &self.data_dir {
            Some(path) => Ok(DataDir::at(path)),
            None => Ok(standard()?),
        }
    }

    /// Where everything of the data directory listens, if it was ever started.
    pub(crate) fn endpoints(&self) -> Result<Option<Endpoints>, Failure> {
        Ok(self.data_or(DataDir::dev)?.endpoints()?)
    }

    /// The control plane's address.
    pub(crate) fn address(&self) -> Result<String, Failure> {
        if let Some(address) = &self.address {
            return Ok(address.clone());
        }
        let endpoints = self.endpoints()?;
        Ok(endpoints.map_or_else(
            || DEFAULT_ADDRESS.to_owned(),
            |endpoints| endpoints.control_plane,
        ))
    }

    /// Whether the control plane is that of the data directory's `xylem dev`: only there is a
    /// web UI.
    pub(crate) fn is_dev(&self) -> Result<bool, Failure> {
        let endpoints = self.endpoints()?;
        Ok(self.address.is_none() && endpoints.is_some_and(|endpoints| endpoints.web_ui.is_some()))
    }

    /// The API key: of the file that is named, of the environment, or `fallback` of the data
    /// directory.
    pub(crate) fn key(&self, fallback: fn(&DataDir) -> PathBuf) -> Result<SecretString, Failure> {
        if let Some(path) = &self.key_file {
            return Ok(data::read_secret(path)?);
        }
        if let Ok(key) = env::var(KEY_VARIABLE)
            && !key.is_empty()
        {
            return Ok(SecretString::from(key));
        }
        let path = fallback(&self.data_or(DataDir::dev)?);
        if !path.exists() {
            return Err(Failure::usage("no API key").hint(
                "start `xylem dev` once, sign in with `xylem login NAME`, or name a key with --key-file or \
                 XYLEM_API_KEY, or the data directory with --data-dir",
            ));
        }
        Ok(data::read_secret(&path)?)
    }

    /// Whether a key is named, by a file or in the environment.
    fn names_key(&self) -> bool {
        self.key_file.is_some() || env::var_os(KEY_VARIABLE).is_some_and(|key| !key.is_empty())
    }

    /// The key file that would be read.
    pub(crate) fn key_path(&self) -> Result<Option<PathBuf>, Failure> {
        if self.key_file.is_some() {
            return Ok(self.key_file.clone());
        }
        if env::var_os(KEY_VARIABLE).is_some() {
            return Ok(None);
        }
        Ok(Some(self.data_or(DataDir::dev)?.admin_key()))
    }
}

/// One run of a command.
pub(crate) struct Session<'a> {
    pub(crate) access: Access,
    pub(crate) output: &'a mut Output,
}

impl<'a> Session<'a> {
    pub(crate) fn new(access: Access, output: &'a mut Output) -> Self {
        Self { access, output }
    }

    /// Connects to the control plane.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        let address = self.access.address()?;
        let key = match self.signed_in(&address).await? {
            Some(token) => token,
            None => self.access.key(DataDir::admin_key)?,
        };
        Ok(Client::connect_with(&address, &self.access.trust.tls()?, &key).await?)
    }

    /// The access token of whoever is signed in there, unless a key is named.
    async fn signed_in(&self, address: &str) -> Result<Option<SecretString>, Failure> {
        if self.access.names_key() || !Place::exists(address) {
            return Ok(None);
        }
        let mut place = Place::open(address)?;
        let trust = &self.access.trust;
        if let Some(token) = place.access() {
            // It may have ended before its time, with the key that signed it; the session says whether.
            let client = Client::connect_with(address, &trust.tls()?, &token).await?;
            match client.status().await {
                Err(xylem_client::Error::Unauthenticated(_)) => {}
                _ => return Ok(Some(token)),
            }
        }
        Ok(place.refresh(trust).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::failure::Exit;
    use secrecy::ExposeSecret;

    fn endpoints(data: &DataDir) -> Endpoints {
        Endpoints {
            temporal_address: "127.0.0.1:1".into(),
            namespace: "default".into(),
            web_ui: None,
            control_plane: "http://127.0.0.1:2".into(),
            data_directory: data.path().to_owned(),
            task_queue: "xylem".into(),
        }
    }

    #[test]
    fn address_and_key_are_found_in_the_data_directory() {
        let guard = tempfile::tempdir().expect("a directory");
        let data = DataDir::at(guard.path());
        data.create().expect("made");
        data.record(&endpoints(&data)).expect("recorded");
        data::write_secret(&data.admin_key(), &SecretString::from("xyk_a")).expect("written");
        let access = Access {
            data_dir: Some(guard.path().to_owned()),
            ..Access::default()
        };
        assert_eq!(access.address().expect("found"), "http://127.0.0.1:2");
        let key = access.key(DataDir::admin_key).expect("found");
        assert_eq!(key.expose_secret(), "xyk_a");
    }

    #[test]
    fn without_a_key_the_first_step_is_named() {
        let guard = tempfile::tempdir().expect("a directory");
        let access = Access {
            data_dir: Some(guard.path().to_owned()),
            ..Access::default()
        };
        assert_eq!(access.address().expect("the default"), DEFAULT_ADDRESS);
        let failure = access.key(DataDir::admin_key).expect_err("no key");
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.to_string().contains("xylem dev"));
    }
}
