//! `keyferry keys`: the secrets of processors.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::{Args, Subcommand, ValueEnum};
use ed25519_dalek::{
    SigningKey,
    pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, spki::der::pem::LineEnding},
};
use keyferry_runtime::exit::Fatal;
use openssl::rand::rand_bytes;
use zeroize::Zeroizing;

use super::{files, out};

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Makes a secret and writes it to a new file that only its owner can read
    #[command(after_help = "Example: keyferry keys generate --kind signing --out hub-1.pem")]
    Generate(Generate),
    /// Prints the public half of a signing key, for `signing_keys` in the network document
    #[command(after_help = "Example: keyferry keys public hub-1.pem")]
    Public {
        /// File that `keys generate --kind signing` wrote
        file: PathBuf,
    },
}

/// What to make, and where.
#[derive(Args)]
pub struct Generate {
    /// What it is for
    #[arg(long, value_enum)]
    kind: Kind,
    /// File to write; an existing one is never overwritten
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Says what would be written, and writes nothing
    #[arg(long)]
    dry_run: bool,
}

/// What a secret is for.
#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// Signs batches: Ed25519, PKCS#8 PEM
    Signing,
    /// Keeps ledgers from being tied to published keys: 32 bytes, hex
    Fingerprint,
}

/// Runs a command.
///
/// # Errors
/// [`Fatal`] that names the file and what is wrong with it; never what stands in it.
pub fn run(command: &Command) -> Result<(), Fatal> {
    match command {
        Command::Generate(Generate { out: path, dry_run: true, .. }) => match path.exists() {
            true => Err(taken(path)),
            false => out(format_args!("would write {}", path.display())),
        },
        Command::Generate(Generate { kind, out: path, .. }) => generate(*kind, path),
        Command::Public { file } => out(public(file)?),
    }
}

fn generate(kind: Kind, path: &Path) -> Result<(), Fatal> {
    let mut secret = Zeroizing::new([0; 32]);
    rand_bytes(secret.as_mut())
        .map_err(|e| Fatal::failure(format_args!("the system gives no random bytes: {e}")))?;
    match kind {
        Kind::Signing => {
            let key = SigningKey::from_bytes(&secret);
            let pem = key.to_pkcs8_pem(LineEnding::LF);
            write_new(
                path,
                pem.map_err(|_| Fatal::failure("the key can not be written as PEM"))?.as_bytes(),
            )?;
            let public = STANDARD.encode(key.verifying_key().as_bytes());
            out(format_args!("wrote {}; its public_key for the network document: {public}", path.display()))
        }
        Kind::Fingerprint => {
            let mut hex = Zeroizing::new(vec![0; 65]);
            let (digits, end) = hex.split_at_mut(64);
            let encoded = hex::encode_to_slice(secret.as_ref(), digits);
            encoded.map_err(|_| Fatal::failure("the secret can not be written as hex"))?;
            end[0] = b'\n';
            write_new(path, &hex)?;
            out(format_args!("wrote {}; give the same file to every processor", path.display()))
        }
    }
}

/// Never overwrites: keys of a network that runs can not be made again.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Fatal> {
    let shown = path.display();
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(|e| match e.kind() {
        ErrorKind::AlreadyExists => taken(path),
        _ => Fatal::config(format_args!("{shown} can not be made: {e}")),
    })?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.map_err(|e| {
        // It is ours, and part of a key is none: it would only be in the way of the next attempt.
        let _ = fs::remove_file(path);
        Fatal::failure(format_args!("{shown} can not be written: {e}"))
    })
}

fn taken(path: &Path) -> Fatal {
    let shown = path.display();
    Fatal::config(format_args!("{shown} exists and is not overwritten: choose another name, or move it away"))
}

fn public(path: &Path) -> Result<String, Fatal> {
    let bytes = Zeroizing::new(files::read("the key", path)?);
    let key = std::str::from_utf8(&bytes).ok().and_then(|pem| SigningKey::from_pkcs8_pem(pem).ok());
    let key =
        key.ok_or_else(|| Fatal::config(format_args!("{} is no Ed25519 key in PKCS#8 PEM", path.display())))?;
    Ok(STANDARD.encode(key.verifying_key().as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use keyferry_runtime::exit::Exit;

    use super::*;

    #[test]
    fn a_key_is_private_new_and_has_a_public_half() {
        let folder = tempfile::tempdir().unwrap();
        for kind in [Kind::Signing, Kind::Fingerprint] {
            let path =
                folder.path().join(if matches!(kind, Kind::Signing) { "key.pem" } else { "secret.hex" });
            generate(kind, &path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            let before = fs::read(&path).unwrap();
            assert_eq!(generate(kind, &path).unwrap_err().exit, Exit::Config);
            assert_eq!(fs::read(&path).unwrap(), before);
        }
        assert_eq!(STANDARD.decode(public(&folder.path().join("key.pem")).unwrap()).unwrap().len(), 32);
        let secret = fs::read_to_string(folder.path().join("secret.hex")).unwrap();
        assert_eq!(hex::decode(secret.trim()).unwrap().len(), 32);
        let error = public(&folder.path().join("secret.hex")).unwrap_err().to_string();
        assert!(!error.contains(secret.trim()), "{error}");
    }
}
