//! Programs that no one here wrote, to which signing and verifying is left: `tests/java`, `tests/python`,
//! `examples/python`, and the command `openssl`.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use keyferry_schemas::{
    canonical::Canonical,
    efgs::{self, DiagnosisKey},
    world::Identity,
};

/// Who signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// BouncyCastle; a form as `tests/java/Sign.java` takes it.
    BouncyCastle,
    /// Python's `cryptography`; a form as `tests/python/sign.py` takes it.
    Python,
    /// `openssl cms -sign`; a form is its options.
    OpenSsl,
}

/// What is to be signed: how, the keys, the signer.
pub type Job<'a> = (&'a str, &'a [DiagnosisKey], &'a Identity);

impl Program {
    /// Signs, all in one run if the program can. BouncyCastle and Python make the canonical bytes themselves, from the
    /// protobuf of the upload.
    ///
    /// # Errors
    /// The program is not there, or fails.
    pub fn sign(self, jobs: &[Job]) -> Result<Vec<Vec<u8>>> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str, i: usize| folder.path().join(format!("{name}-{i}"));
        let mut list = String::new();
        for (i, (form, keys, signer)) in jobs.iter().enumerate() {
            let [upload, pem, key, out] = ["upload", "pem", "key", "out"].map(|name| path(name, i));
            fs::write(&upload, efgs::encode_protobuf(*keys))?;
            fs::write(&pem, signer.certificate_pem()?)?;
            fs::write(&key, signer.key_pem()?)?;
            let files = [&upload, &pem, &key, &out].map(|file| file.display());
            let [upload, pem, key, out] = &files;
            writeln!(list, "{form} {upload} {pem} {key} {out}")?;
            if self == Self::OpenSsl {
                let content = path("content", i);
                fs::write(&content, Canonical::of(keys).bytes())?;
                let options = format!(
                    "cms -sign -binary -in {} -outform DER -out {out} -signer {pem} -inkey {key} {form}",
                    content.display()
                );
                done(Command::new("openssl").args(options.split_whitespace()))?;
            }
        }
        let file = folder.path().join("jobs");
        fs::write(&file, list)?;
        match self {
            Self::BouncyCastle => done(java()?.arg(&file)).map(drop)?,
            Self::Python => done(&mut python("tests/python/sign.py", [&file])?).map(drop)?,
            Self::OpenSsl => (),
        }
        (0..jobs.len()).map(|i| Ok(fs::read(path("out", i))?)).collect()
    }
}

/// Runs it to its end, and it must be a good one.
fn done(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output)
}

fn root() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?)
}

/// Java, with its compiler and what `make setup` fetched, about to run `tests/java/Sign.java` from its source.
fn java() -> Result<Command> {
    let root = root()?;
    let libs = root.join("target/foreign/libs");
    ensure!(libs.exists(), "{} is not there: run make setup", libs.display());
    let java = std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin/java"));
    let mut command = Command::new(java.filter(|java| java.exists()).unwrap_or_else(|| "java".into()));
    command.arg("-cp").arg(libs.join("*")).arg(root.join("tests/java/Sign.java"));
    Ok(command)
}

/// Python with what `make setup` installed, about to run this script of the repository.
///
/// # Errors
/// It is not there.
pub fn python(script: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Command> {
    let root = root()?;
    let python = root.join("target/venv/bin/python3");
    ensure!(python.exists(), "{} is not there: run make setup", python.display());
    let mut command = Command::new(python);
    // All that is asked is on this machine.
    command.arg(root.join(script)).args(arguments).env("no_proxy", "127.0.0.1");
    Ok(command)
}
