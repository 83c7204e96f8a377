//! `network sign`: what the holder of the trust anchor does, off line.

use std::path::{Path, PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Args;
use keyferry_runtime::exit::Fatal;
use keyferry_schemas::{
    certificate::Certificate,
    cms,
    network::{Document, Network, anchor_signed},
    records::NetworkRecord,
};
use openssl::{
    error::ErrorStack,
    hash::MessageDigest,
    pkey::{PKey, Private},
    sign::Signer,
};
use zeroize::Zeroizing;

use crate::cli::{files, out};

/// What to sign, with what.
#[derive(Args)]
pub struct Sign {
    /// The document (YAML); the signature goes into FILE.cms
    file: PathBuf,
    /// The anchor's private key (PEM); an encrypted one asks for its password
    #[arg(long, value_name = "PEM")]
    anchor_key: PathBuf,
    /// The anchor's certificate
    #[arg(long, value_name = "PEM")]
    anchor_cert: PathBuf,
    /// Where the document goes if certificates had to be signed; FILE itself unless given
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Signs and checks everything, says what would be written, and writes nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(args: &Sign) -> Result<(), Fatal> {
    let anchor = files::anchors(std::slice::from_ref(&args.anchor_cert))?.remove(0);
    let key = key(args, &anchor)?;
    let (bytes, document) = files::document(&args.file)?;
    let (text, signed) = sign_certificates(bytes, document, &key, &anchor)?;

    let target = args.out.as_ref().unwrap_or(&args.file);
    let text = bytes::Bytes::from(text);
    let network =
        Network::read(&text, std::slice::from_ref(&anchor)).map_err(|e| files::untrusted(&args.file, &e))?;
    let signature = cms::sign(&text, &key, anchor.x509()).map_err(|e| failed("the document", &e))?;
    let record = NetworkRecord {
        network: network.name().to_owned(),
        version: network.version(),
        document: text.clone(),
        signature: signature.clone().into(),
    };
    // What no role would accept is not handed out.
    Network::open(&record, std::slice::from_ref(&anchor)).map_err(|e| files::untrusted(target, &e))?;
    let would = if args.dry_run { "would write " } else { "" };
    let write = |path: &Path, bytes: &[u8]| if args.dry_run { Ok(()) } else { files::replace(path, bytes) };
    if signed > 0 || target != &args.file {
        write(target, &text)?;
        out(format_args!("{would}{}: {signed} certificate(s) signed", target.display()))?;
    }
    let cms = files::beside(target, ".cms");
    write(&cms, &signature)?;
    out(format_args!(
        "{would}{}: signature of network {}, version {}",
        cms.display(),
        network.name(),
        network.version()
    ))
}

fn key(args: &Sign, anchor: &Certificate) -> Result<PKey<Private>, Fatal> {
    let pem = Zeroizing::new(files::read("the anchor's key", &args.anchor_key)?);
    let shown = args.anchor_key.display();
    let key = PKey::private_key_from_pem(&pem).map_err(|_| {
        Fatal::config(format_args!("{shown} is no private key in PEM, or the password is wrong"))
    })?;
    let own = anchor.x509().public_key().is_ok_and(|public| key.public_eq(&public));
    if own {
        return Ok(key);
    }
    Err(Fatal::config(format_args!(
        "{shown} is not the key of the certificate {}",
        args.anchor_cert.display()
    )))
}

/// The document in which the anchor's signature stands at every certificate, and how many were made. Without any to
/// make it stays byte for byte.
fn sign_certificates(
    bytes: Vec<u8>,
    mut document: Document,
    key: &PKey<Private>,
    anchor: &Certificate,
) -> Result<(Vec<u8>, usize), Fatal> {
    let members = document.members.iter();
    let entries =
        members.flat_map(|m| m.certificates.iter().enumerate().map(move |(i, c)| (m.country, i, c)));
    for (country, i, entry) in entries {
        // The anchor signs nothing but certificates: least of all a private key that was pasted along.
        Certificate::from_pem_alone(&entry.pem)
            .map_err(|e| Fatal::config(format_args!("certificate {i} of {country}, `pem`: {e}")))?;
    }
    let mut signed = 0;
    for entry in document.members.iter_mut().flat_map(|m| &mut m.certificates) {
        if !anchor_signed(&entry.pem, &entry.anchor_signature, std::slice::from_ref(anchor)) {
            let signature = Signer::new(MessageDigest::sha256(), key)
                .and_then(|mut signer| signer.sign_oneshot_to_vec(entry.pem.as_bytes()))
                .map_err(|e| failed("a certificate", &e))?;
            entry.anchor_signature = STANDARD.encode(signature);
            signed += 1;
        }
    }
    if signed == 0 {
        return Ok((bytes, 0));
    }
    let written = serde_saphyr::to_string(&document)
        .map_err(|e| Fatal::failure(format_args!("the document can not be written as YAML: {e}")))?;
    let edited = edit(&bytes, &document);
    // Comments of its authors stay wherever the text can be edited in place and then says the same.
    let same = |text: &String| {
        serde_saphyr::from_str::<Document>(text)
            .is_ok_and(|d| serde_saphyr::to_string(&d).is_ok_and(|d| d == written))
    };
    Ok((edited.filter(same).unwrap_or(written).into_bytes(), signed))
}

/// The text with the value of each `anchor_signature:` replaced, if there is exactly one line of it per certificate.
fn edit(bytes: &[u8], document: &Document) -> Option<String> {
    const FIELD: &str = "anchor_signature:";
    let text = std::str::from_utf8(bytes).ok()?;
    let mut entries = document.members.iter().flat_map(|m| &m.certificates);
    let mut edited = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let field = line.trim_start().trim_start_matches("- ").starts_with(FIELD);
        match line.split_once(FIELD).filter(|_| field) {
            Some((before, _)) => {
                let entry = entries.next()?;
                edited.extend([before, FIELD, " \"", &entry.anchor_signature, "\"\n"]);
            }
            None => edited.push_str(line),
        }
    }
    entries.next().is_none().then_some(edited)
}

fn failed(what: &str, error: &ErrorStack) -> Fatal {
    Fatal::failure(format_args!("{what} can not be signed: {error}"))
}

#[cfg(test)]
#[cfg(feature = "embedded-broker")]
mod tests {
    use std::fs;

    use jiff::Timestamp;
    use keyferry_runtime::exit::Exit;
    use keyferry_schemas::world::World;
    use tempfile::TempDir;

    use super::*;

    /// A document whose certificates nobody has signed yet, with a comment of its authors.
    fn unsigned() -> (TempDir, Sign) {
        let mut world = World::new(&["DE", "FR"], Timestamp::constant(1_800_000_000, 0)).unwrap();
        for entry in world.document.members.iter_mut().flat_map(|m| &mut m.certificates) {
            entry.anchor_signature.clear();
        }
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let text = serde_saphyr::to_string(&world.document).unwrap();
        fs::write(path("network.yaml"), format!("# agreed in Brussels\n{text}")).unwrap();
        fs::write(path("anchor.pem"), world.anchor.certificate_pem().unwrap()).unwrap();
        fs::write(path("anchor.key"), world.anchor.key_pem().unwrap()).unwrap();
        let args = Sign {
            file: path("network.yaml"),
            anchor_key: path("anchor.key"),
            anchor_cert: path("anchor.pem"),
            out: None,
            dry_run: false,
        };
        (folder, args)
    }

    #[test]
    fn certificates_are_signed_once_and_comments_stay() {
        let (_folder, args) = unsigned();
        run(&args).unwrap();
        let signed = fs::read_to_string(&args.file).unwrap();
        assert!(signed.starts_with("# agreed in Brussels\n"));
        let record = files::signed(&args.file, None).unwrap();
        Network::open(&record, &files::anchors(std::slice::from_ref(&args.anchor_cert)).unwrap()).unwrap();
        run(&args).unwrap();
        assert_eq!(fs::read_to_string(&args.file).unwrap(), signed, "nothing was left to sign");
    }

    #[test]
    fn fields_that_are_not_there_are_added() {
        let (_folder, mut args) = unsigned();
        let text = fs::read_to_string(&args.file).unwrap();
        let without: Vec<_> = text.lines().filter(|line| !line.contains("anchor_signature")).collect();
        fs::write(&args.file, without.join("\n")).unwrap();
        args.dry_run = true;
        run(&args).unwrap();
        assert!(
            !fs::read_to_string(&args.file).unwrap().contains("anchor_signature"),
            "a dry run writes nothing"
        );
        assert!(!files::beside(&args.file, ".cms").exists());
        args.dry_run = false;
        run(&args).unwrap();
        assert_eq!(fs::read_to_string(&args.file).unwrap().matches("anchor_signature").count(), 4);
    }

    #[test]
    fn a_private_key_pasted_along_is_not_signed() {
        let (folder, args) = unsigned();
        let key = fs::read_to_string(folder.path().join("anchor.key")).unwrap();
        let (text, mut document) = files::document(&args.file).unwrap();
        document.members[1].certificates[0].pem.push_str(&key);
        fs::write(&args.file, serde_saphyr::to_string(&document).unwrap()).unwrap();
        let fatal = run(&args).unwrap_err();
        assert_eq!(fatal.exit, Exit::Config);
        assert!(
            fatal.message.starts_with("certificate 0 of FR, `pem`: a private key stands there"),
            "{fatal}"
        );
        assert!(!files::beside(&args.file, ".cms").exists());
        let anchor = files::anchors(std::slice::from_ref(&args.anchor_cert)).unwrap().remove(0);
        let refused = sign_certificates(text, document, &super::key(&args, &anchor).unwrap(), &anchor);
        assert!(refused.is_err(), "not even in memory");
    }

    #[test]
    fn another_key_signs_nothing() {
        let (_folder, args) = unsigned();
        let (_other_folder, other) = unsigned();
        let before = fs::read(&args.file).unwrap();
        let fatal = run(&Sign {
            anchor_key: other.anchor_key.clone(),
            file: args.file.clone(),
            anchor_cert: args.anchor_cert.clone(),
            out: None,
            dry_run: false,
        })
        .unwrap_err();
        assert_eq!(fatal.exit, Exit::Config);
        assert!(fatal.message.contains("is not the key of the certificate"), "{fatal}");
        assert_eq!(fs::read(&args.file).unwrap(), before);
    }
}
