//! Files that commands read and write.

use std::{
    fs,
    path::{Path, PathBuf},
};

use keyferry_runtime::{config::TrustConfig, exit::Fatal};
use keyferry_schemas::{
    certificate::Certificate,
    network::{Document, UntrustedNetwork},
    records::NetworkRecord,
};
use openssl::cms::CmsContentInfo;

/// Reads a file. `what` names it in the message.
pub(crate) fn read(what: &str, path: &Path) -> Result<Vec<u8>, Fatal> {
    fs::read(path).map_err(|e| Fatal::config(format_args!("{what} {} can not be read: {e}", path.display())))
}

/// Replaces a file as a whole: whoever reads it meanwhile sees the old one or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Fatal> {
    let new = beside(path, ".new");
    let written = fs::write(&new, bytes).and_then(|()| fs::rename(&new, path));
    written.map_err(|e| Fatal::failure(format_args!("{} can not be written: {e}", path.display())))
}

/// `path` with `suffix` behind its name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Reads the pinned trust anchors; there has to be one.
pub(crate) fn anchors(files: &[PathBuf]) -> Result<Vec<Certificate>, Fatal> {
    if files.is_empty() {
        return Err(Fatal::config(
            "no trust anchor is given: name its certificate with --anchor PEM, or `trust_anchors` in --config",
        ));
    }
    TrustConfig { trust_anchors: files.to_vec() }.load()
}

/// Reads a network document as its authors wrote it; nothing of it is verified.
pub(crate) fn document(path: &Path) -> Result<(Vec<u8>, Document), Fatal> {
    let bytes = read("the network document", path)?;
    let syntax =
        |e: &dyn std::fmt::Display| Fatal::config(format_args!("{}: {}", path.display(), first_line(e)));
    let text = std::str::from_utf8(&bytes).map_err(|e| syntax(&e))?;
    let document = serde_saphyr::from_str(text).map_err(|e| syntax(&e))?;
    Ok((bytes, document))
}

/// Reads a document and its detached signature (`FILE.cms` unless told) as the record that stands on the topic.
pub(crate) fn signed(path: &Path, signature: Option<&Path>) -> Result<NetworkRecord, Fatal> {
    let (bytes, document) = document(path)?;
    let cms = signature.map_or_else(|| beside(path, ".cms"), Path::to_owned);
    let signature = fs::read(&cms).map_err(|e| {
        let (file, cms) = (path.display(), cms.display());
        Fatal::config(format_args!(
            "the signature {cms} of {file} can not be read: {e}; `keyferry network sign` makes it"
        ))
    })?;
    Ok(NetworkRecord {
        network: document.network,
        version: document.version,
        document: bytes.into(),
        signature: der(signature).into(),
    })
}

/// OpenSSL writes PEM unless told; the topic holds DER.
fn der(signature: Vec<u8>) -> Vec<u8> {
    if !signature.starts_with(b"-----BEGIN") {
        return signature;
    }
    // What can not be read is refused as a signature, a moment later.
    CmsContentInfo::from_pem(&signature).and_then(|cms| cms.to_der()).unwrap_or(signature)
}

/// All faults of a document, one line each; or why it is not trusted.
pub(crate) fn untrusted(path: &Path, error: &UntrustedNetwork) -> Fatal {
    let file = path.display();
    match error {
        UntrustedNetwork::Faults(faults) => {
            let lines: Vec<_> = faults.iter().map(|fault| format!("{file}: {fault}")).collect();
            Fatal { message: lines.join("\n"), ..Fatal::config("") }
        }
        UntrustedNetwork::Syntax(what) => Fatal::config(format_args!("{file}: {}", first_line(what))),
        other => Fatal::untrusted(format_args!("{file}: {other}")),
    }
}

/// What the YAML library says, without the picture of the place that it draws below.
fn first_line(error: impl std::fmt::Display) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}
