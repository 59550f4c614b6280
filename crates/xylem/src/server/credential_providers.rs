//! The file that says which files and commands give the values of stored credentials.

use super::fields::{FileError, Parsed, read_private};
use std::path::Path;
use xylem_control::{CredentialProviders, ProviderFields};

/// Reads the file. Whoever may write it may have this user run anything, so that it is its owner's alone.
///
/// # Errors
/// It cannot be read, others may read or change it, or a field breaks its rule.
pub fn credential_providers(file: &Path) -> Result<CredentialProviders, FileError> {
    let Parsed { fields, text } = read_private::<ProviderFields>(file)?;
    CredentialProviders::try_from(fields).map_err(|rule| {
        let index = rule.index.to_string();
        text.wrong(&[rule.list, &index, rule.field], &rule)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        io::{self, Write},
        os::unix::fs::PermissionsExt,
    };

    fn with_mode(text: &str, mode: u32) -> Result<CredentialProviders, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("providers.toml");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        credential_providers(&file).map_err(|error| error.to_string())
    }

    fn of(text: &str) -> Result<CredentialProviders, String> {
        with_mode(text, 0o600)
    }

    /// The example of the manual is one that works.
    #[test]
    fn the_manual_shows_a_file_that_is_read() {
        let manual = include_str!("../../../../docs/credentials.md");
        let example = manual.split("```toml\n").nth(1).unwrap();
        let example = example.split("```").next().unwrap();
        let shown = format!("{:?}", of(example).unwrap());
        assert!(
            shown.contains("acme-file") && shown.contains("acme-login"),
            "{shown}"
        );
    }

    #[test]
    fn a_file_that_others_may_open_is_refused() {
        for mode in [0o640, 0o620, 0o604, 0o602] {
            let error = with_mode("", mode).unwrap_err();
            assert!(error.contains("chmod 600"), "{mode:o}: {error}");
        }
        with_mode("", 0o400).unwrap();
    }

    /// As root only: nobody else can give a file away.
    #[test]
    fn a_file_of_somebody_else_is_refused() {
        const NOBODY: u32 = 65_534;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("providers.toml");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        if std::os::unix::fs::chown(&file, Some(NOBODY), None).is_err() {
            // `eprintln!` is captured, and what was skipped is to be seen.
            let _ = writeln!(io::stderr(), "skipped: only root can give files away");
            return;
        }
        let error = credential_providers(&file).unwrap_err().to_string();
        assert!(error.contains("must belong to root"), "{error}");
    }

    #[test]
    fn what_is_no_field_or_no_value_is_refused_by_name() {
        const FILE: &str = "[[file]]\nname = \"a\"\npath = \"/a\"\n";
        const COMMAND: &str = "[[command]]\nname = \"b\"\ncommand = [\"/b\", \"canary\"]\n";
        for (text, expected) in [
            ("[[files]]\n", "files"),
            ("[[file]]\nname = \"a\"\n", "path"),
            (
                "[[file]]\nname = \"a\"\npath = \"a\"\n",
                "line 3: file 1: path must be absolute",
            ),
            (
                "[[file]]\nname = \"A b\"\npath = \"/a\"\n",
                "line 2: file 1: name must be",
            ),
            (
                &format!("{FILE}{FILE}"),
                "line 5: file 2: name must not be given twice",
            ),
            (&format!("{FILE}link = true\n"), "link"),
            (&format!("{FILE}format = \"yaml\"\n"), "yaml"),
            (
                &format!("{FILE}\n{}", COMMAND.replace("\"/b\"", "\"b\"")),
                "line 7: command 1: command must begin with",
            ),
            (
                &COMMAND.replace("\"/b\", \"canary\"", ""),
                "command 1: command must begin with",
            ),
            (&format!("{COMMAND}shell = true\n"), "shell"),
            (
                &format!("{COMMAND}timeout = \"61s\"\n"),
                "line 4: command 1: timeout must be 1s to 60s",
            ),
            (
                &format!("{COMMAND}timeout = \"soon\"\n"),
                "command 1: timeout must be 1s to 60s",
            ),
            (
                &format!("{COMMAND}environment = [\"XYLEM_KEK\"]\n"),
                "command 1: environment",
            ),
            (
                &format!("{COMMAND}environment = [\"A=canary\"]\n"),
                "command 1: environment",
            ),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
