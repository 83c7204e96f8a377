//! Whether a batch is what its origins signed: every key belongs to one upload, every upload has its origin's signature
//! over exactly its keys, and that origin's certificates have the trust anchor's. Nobody has to trust the hub for it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    path::PathBuf,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::{Args, ValueEnum};
use keyferry_runtime::exit::Fatal;
use keyferry_schemas::{
    batch::sha256, canonical::Canonical, certificate::Certificate, cms::Detached, country::Country,
    efgs::DiagnosisKey, network::anchor_signed, records::Hash,
};

use super::audit::Entry;
use crate::cli::files;

/// Codes that stood for a country besides its own, in certificates and keys of the years that this contract is from.
const ALIASES: [(&str, &str); 2] = [("EL", "GR"), ("UK", "GB")];

/// Whom to trust, and how far.
#[derive(Args, Debug)]
#[command(next_help_heading = "The proof")]
pub(super) struct ProofArgs {
    /// Certificate of the trust anchor, which came by another way than through the hub; may be given several times
    #[arg(long, value_name = "PEM")]
    anchor: Vec<PathBuf>,
    /// What a batch has to be proven by
    #[arg(long, value_enum, default_value = "required", value_name = "PROOF")]
    origin_proof: OriginProof,
    /// Another code of a country, as in the network document; EL=GR and UK=GB are known
    #[arg(long, value_name = "CODE=COUNTRY", value_parser = alias)]
    alias: Vec<(Country, Country)>,
}

/// The same choice as in the network document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OriginProof {
    /// Each upload by its origin's signature
    Required,
    /// Parts of uploads by the hub's word alone: for a member whose origin_proof is `hub`
    Hub,
}

fn alias(text: &str) -> Result<(Country, Country), String> {
    let pair =
        text.split_once('=').and_then(|(code, country)| Some((code.parse().ok()?, country.parse().ok()?)));
    pair.ok_or_else(|| "is not CODE=COUNTRY, such as EL=GR".into())
}

impl ProofArgs {
    /// Reads the anchors. `own` is the country that downloads.
    pub(super) fn prover(&self, own: Option<Country>) -> Result<Prover, Fatal> {
        if self.anchor.is_empty() {
            return Err(Fatal::config("no trust anchor is given: name its certificate with --anchor PEM"));
        }
        let known =
            ALIASES.iter().filter_map(|(code, country)| Some((code.parse().ok()?, country.parse().ok()?)));
        let mut prover = Prover::new(files::anchors(&self.anchor)?, own);
        prover.aliases = known.chain(self.alias.iter().copied()).collect();
        prover.hub_is_enough = self.origin_proof == OriginProof::Hub;
        Ok(prover)
    }

    pub(super) fn is_given(&self) -> bool {
        !self.anchor.is_empty()
    }
}

/// What makes a batch, or an upload in it, untrustworthy. None of it names a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Doubt {
    #[error("it has {keys} keys, and its audit speaks of {amounts}")]
    Amounts { keys: usize, amounts: u64 },
    #[error("it carries our own keys")]
    OwnKeys,
    #[error("a key in it names another origin")]
    KeyOrigin,
    #[error("it has no {0}")]
    Missing(&'static str),
    #[error("its {0} can not be read")]
    Unreadable(&'static str),
    #[error("its {0} is not the one that its thumbprint names")]
    Thumbprint(&'static str),
    #[error("its {0} is not signed by the trust anchor; is it the right --anchor?")]
    Anchor(&'static str),
    #[error("its {0} is another country's")]
    Country(&'static str),
    #[error("its {0} was not valid when it was uploaded")]
    Dates(&'static str),
    #[error("its origin's signature does not hold over its keys")]
    Signature,
    #[error("its origin's signature is not proven; --origin-proof hub takes the hub's word for it")]
    NoProof,
}

/// A [`Doubt`] with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Doubtful {
    upload: Option<(usize, Country)>,
    pub(super) why: Doubt,
}

impl fmt::Display for Doubtful {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.upload {
            Some((i, country)) => write!(f, "upload {} in it, from {country}: {}", i + 1, self.why),
            None => self.why.fmt(f),
        }
    }
}

/// What was proven of one upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// Its origin signed exactly these keys.
    Whole,
    /// The hub says that these are some of its origin's keys.
    Subset,
}

/// What was proven of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Proven {
    whole: usize,
    subset: usize,
    pub(super) origins: BTreeSet<Country>,
}

impl Proven {
    pub(super) fn level(&self) -> &'static str {
        match (self.whole, self.subset) {
            (_, 0) => "whole",
            (0, _) => "subset",
            _ => "mixed",
        }
    }

    pub(super) fn uploads(&self) -> usize {
        self.whole + self.subset
    }
}

impl fmt::Display for Proven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origins: Vec<_> = self.origins.iter().map(ToString::to_string).collect();
        write!(f, " in {} upload(s) from {}: ", self.uploads(), origins.join(", "))?;
        match (self.whole, self.subset) {
            (_, 0) => f.write_str("whole, proven by the origin's signature"),
            (0, _) => f.write_str("subset, by the hub's word"),
            (whole, subset) => {
                write!(
                    f,
                    "{whole} whole, proven by the origin's signature, {subset} subset, by the hub's word"
                )
            }
        }
    }
}

/// Proves batches against pinned anchors.
pub(super) struct Prover {
    anchors: Vec<Certificate>,
    pub(super) aliases: BTreeMap<Country, Country>,
    own: Option<Country>,
    pub(super) hub_is_enough: bool,
    /// Certificates that an anchor has signed, by text and signature: few, and each stands in many uploads.
    signed: HashMap<Hash, Certificate>,
}

impl Prover {
    pub(super) fn new(anchors: Vec<Certificate>, own: Option<Country>) -> Self {
        Self { anchors, aliases: BTreeMap::new(), own, hub_is_enough: false, signed: HashMap::new() }
    }

    /// Proves that `keys` are the uploads that `entries` name, one behind the other.
    pub(super) fn prove(&mut self, keys: &[DiagnosisKey], entries: &[Entry]) -> Result<Proven, Doubtful> {
        let amounts = entries.iter().fold(0u64, |sum, entry| sum.saturating_add(entry.amount));
        if amounts != keys.len() as u64 {
            return Err(Doubtful { upload: None, why: Doubt::Amounts { keys: keys.len(), amounts } });
        }
        let mut proven = Proven::default();
        let mut rest = keys;
        for (i, entry) in entries.iter().enumerate() {
            // The sum was held against the number of keys, so it fits.
            let (own, behind) =
                rest.split_at(usize::try_from(entry.amount).unwrap_or(rest.len()).min(rest.len()));
            rest = behind;
            let level = self.upload(own, entry);
            match level.map_err(|why| Doubtful { upload: Some((i, entry.country)), why })? {
                Level::Whole => proven.whole += 1,
                Level::Subset => proven.subset += 1,
            }
            proven.origins.insert(entry.country);
        }
        Ok(proven)
    }

    fn upload(&mut self, keys: &[DiagnosisKey], entry: &Entry) -> Result<Level, Doubt> {
        let (level, signing) = self.entry(entry)?;
        let country = self.resolve(entry.country);
        if self.own.is_some_and(|own| self.resolve(own) == country) {
            return Err(Doubt::OwnKeys);
        }
        let foreign = |key: &DiagnosisKey| key.origin.parse().ok().map(|c| self.resolve(c)) != Some(country);
        if keys.iter().any(foreign) {
            return Err(Doubt::KeyOrigin);
        }
        if level == Level::Subset {
            return Ok(level);
        }
        let cms = entry.batch_signature.as_deref().ok_or(Doubt::Missing("signature"))?;
        let cms = STANDARD.decode(cms).map_err(|_| Doubt::Unreadable("signature"))?;
        let cms = Detached::read(&cms).map_err(|_| Doubt::Unreadable("signature"))?;
        let holds = cms.verify(Canonical::of(keys).bytes(), &signing);
        if holds { Ok(level) } else { Err(Doubt::Signature) }
    }

    /// Proves as much of an upload as can be without its keys: its certificates. Returns that for signing.
    pub(super) fn entry(&mut self, entry: &Entry) -> Result<(Level, Certificate), Doubt> {
        let level = if entry.origin_proof { Level::Whole } else { Level::Subset };
        if level == Level::Subset && !self.hub_is_enough {
            return Err(Doubt::NoProof);
        }
        let (pem, signature) = (&entry.uploader_certificate, &entry.uploader_operator_signature);
        self.certificate(
            "certificate for authentication",
            pem,
            signature,
            &entry.uploader_thumbprint,
            entry,
        )?;
        let (pem, signature) = (&entry.signing_certificate, &entry.signing_certificate_operator_signature);
        let thumbprint = &entry.uploader_signing_thumbprint;
        Ok((level, self.certificate("certificate for signing", pem, signature, thumbprint, entry)?))
    }

    fn certificate(
        &mut self,
        what: &'static str,
        pem: &Option<String>,
        signature: &Option<String>,
        thumbprint: &str,
        entry: &Entry,
    ) -> Result<Certificate, Doubt> {
        let (Some(pem), Some(signature)) = (pem, signature) else { return Err(Doubt::Missing(what)) };
        let name = sha256(format!("{signature}\n{pem}").as_bytes());
        let certificate = match self.signed.get(&name) {
            Some(certificate) => certificate.clone(),
            None => {
                if !anchor_signed(pem, signature, &self.anchors) {
                    return Err(Doubt::Anchor(what));
                }
                let read = Certificate::from_pem_alone(pem).map_err(|_| Doubt::Unreadable(what))?;
                self.signed.entry(name).or_insert(read).clone()
            }
        };
        if !thumbprint.eq_ignore_ascii_case(&hex::encode(certificate.sha256())) {
            return Err(Doubt::Thumbprint(what));
        }
        if certificate.country().map(|c| self.resolve(c)) != Some(self.resolve(entry.country)) {
            return Err(Doubt::Country(what));
        }
        let uploaded = entry.uploaded_time.parse::<jiff::Timestamp>();
        if !uploaded.is_ok_and(|at| certificate.in_force(at.into())) {
            return Err(Doubt::Dates(what));
        }
        Ok(certificate)
    }

    /// The country behind a code.
    fn resolve(&self, code: Country) -> Country {
        self.aliases.get(&code).copied().unwrap_or(code)
    }
}
