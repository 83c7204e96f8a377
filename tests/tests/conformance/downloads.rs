//! Downloads, audits, and what is at no path: after the uploads, from the store.

use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{ToSpan, civil::Date, tz::TimeZone};
use keyferry_schemas::{
    canonical::Canonical,
    certificate::Certificate,
    cms::Detached,
    efgs::{self, DiagnosisKey, Encoding},
};
use keyferry_tests::exchange::{Call, Exchange, Reply};
use openssl::{hash::MessageDigest, sign::Verifier};
use reqwest::Method;
use serde_json::Value;

use crate::{
    row::Row,
    scene::{Scene, settled_now},
};

const PROTOBUF: &str = "application/protobuf; version=1.0";
const JSON: &str = "application/json; version=1.0";

/// One batch as it was downloaded.
pub struct Page {
    pub tag: String,
    pub etag: String,
    pub keys: Vec<DiagnosisKey>,
}

impl Page {
    /// The day in its tag.
    fn date(&self) -> Date {
        Date::strptime("%Y%m%d", self.tag.split('-').next().unwrap()).unwrap()
    }
}

/// The batches of a country from the first on, until they hold what they have to or patience ends.
pub fn walk(
    s: &Scene,
    exchange: &Exchange,
    code: &str,
    patience: Duration,
    until: impl Fn(&[Page]) -> bool,
) -> Vec<Page> {
    let give_up = Instant::now() + patience;
    let (mut pages, mut tag) = (Vec::new(), None);
    loop {
        let reply = download(s, exchange, code, tag.as_deref());
        let next = (reply.header("nextBatchTag") != "null").then(|| reply.header("nextBatchTag").to_owned());
        if reply.status == 200 && tag.as_deref().is_none_or(|tag| tag == reply.header("batchTag")) {
            let keys = efgs::decode(Encoding::Protobuf, reply.body.clone()).unwrap();
            let (tag, etag) = (reply.header("batchTag").to_owned(), reply.header("etag").to_owned());
            if pages.last().is_none_or(|last: &Page| last.tag != tag) {
                pages.push(Page { tag, etag, keys });
            }
        }
        match next {
            Some(next) if reply.status == 200 => tag = Some(next),
            _ if until(&pages) || Instant::now() > give_up => return pages,
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// One batch of a country, by its tag; the first one without.
pub fn download(s: &Scene, exchange: &Exchange, code: &str, tag: Option<&str>) -> Reply {
    // Yesterday, as it may become midnight.
    let since = today().checked_sub(1.day()).unwrap();
    let mut call =
        Call::new(Method::GET, format!("/diagnosiskeys/download/{since}")).header("accept", PROTOBUF);
    if let Some(tag) = tag {
        call = call.header("batchTag", tag);
    }
    exchange.call(s.door, Some(&s.people[code]), &call).unwrap()
}

fn today() -> Date {
    TimeZone::UTC.to_datetime(settled_now().timestamp()).date()
}

/// What FR may ask for and is answered, given what it can walk.
pub fn table(s: &Scene, pages: &[Page]) -> Vec<Row> {
    let (first, second, last) = (&pages[0], &pages[1], pages.last().unwrap());
    let day = first.date();
    let after = last.date().checked_add(1.day()).unwrap();
    let days_ago = |n: i32| today().checked_sub(n.days()).unwrap();
    let path = |date: &str| format!("diagnosiskeys/download/{date}");
    let at = |name: &str, date: &str| s.get(name, &path(date)).header("accept", PROTOBUF);
    let on = |name: &str, date: Date| at(name, &date.to_string());
    let tagged = |name: &str, date: Date, tag: &str| on(name, date).header("batchTag", tag);
    let accept = |name: &str, text: &str| s.get(name, &path(&day.to_string())).header("accept", text);
    let is_first = |row: Row| row.status(200).with("batchTag", &first.tag).with("nextBatchTag", &second.tag);
    let unknown = |row: Row| row.refused(404, "batch-unknown");
    let audit = |name: &str, date: Date, tag: &str| {
        s.get(name, &format!("diagnosiskeys/audit/download/{date}/{tag}"))
    };
    let day_of = first.tag.split('-').next().unwrap();
    let mut rows = vec![
        is_first(on("first of its day", day)).with("content-type", PROTOBUF).with("etag", &first.etag),
        is_first(on("first since a while", days_ago(10))),
        is_first(on("first since as long ago as may be", days_ago(14))),
        is_first(tagged("by tag", day, &first.tag)),
        is_first(tagged("by tag, from an earlier date", days_ago(14), &first.tag)),
        is_first(accept("as JSON", JSON)).with("content-type", JSON),
        is_first(accept("as JSON rather than protobuf", &format!("{JSON}, {PROTOBUF};q=0.5")))
            .with("content-type", JSON),
        is_first(on("empty tag", day).header("batchTag", "")),
        on("head", day)
            .method(Method::HEAD)
            .status(200)
            .with("batchTag", &first.tag)
            .with("nextBatchTag", &second.tag),
        on("what it has", day)
            .header("if-none-match", &first.etag)
            .status(304)
            .with("nextBatchTag", &second.tag),
        is_first(on("what it has of another", day).header("if-none-match", &second.etag)),
        tagged("the next one", day, &second.tag).status(200).with("batchTag", &second.tag),
        tagged("the last one", day, &last.tag)
            .status(200)
            .with("batchTag", &last.tag)
            .with("nextBatchTag", "null"),
        tagged("the last one, had already", day, &last.tag)
            .header("if-none-match", &last.etag)
            .status(304)
            .with("nextBatchTag", "null"),
        on("of tomorrow", after).refused(404, "no-batch"),
        tagged("by tag, from a later date", after, &first.tag).refused(400, "date-after-batch"),
        unknown(tagged("number that is not there", day, &format!("{day_of}-99999"))),
        unknown(tagged("day that is not there", day, "20200101-1")),
        unknown(tagged("padded number", day, &format!("{day_of}-01"))),
        unknown(tagged("number 0", day, &format!("{day_of}-0"))),
        unknown(tagged("no number", day, day_of)),
        unknown(tagged("no tag", day, "../../etc/passwd")),
        on("older by a day", days_ago(15)).refused(410, "date-too-old"),
        tagged("by tag, from too long ago", days_ago(15), &first.tag).refused(410, "date-too-old"),
        at("month 13", "2020-13-01").refused(400, "date-malformed"),
        at("30 February", "2021-02-30").refused(400, "date-malformed"),
        at("no hyphens", day_of).refused(400, "date-malformed"),
        at("one digit", "2020-1-01").refused(400, "date-malformed"),
        at("a time", "2020-10-01T00:00:00Z").refused(400, "date-malformed"),
        at("a word", "today").refused(400, "date-malformed"),
        s.get("accepts nothing", &path(&day.to_string())).without("accept").refused(415, "accept-version"),
        accept("accepts no version", "application/protobuf").refused(415, "accept-version"),
        accept("accepts no version, json", "application/json").refused(415, "accept-version"),
        accept("accepts version 1", "application/protobuf; version=1").refused(415, "accept-version"),
        accept("accepts version 2.0", "application/protobuf; version=2.0").refused(415, "accept-version"),
        accept("accepts anything", "*/*").refused(415, "accept-version"),
        accept("accepts text", "text/plain").refused(406, "accept-media-type"),
        accept("accepts xml with a version", "application/xml; version=1.0")
            .refused(406, "accept-media-type"),
        audit("audit", day, &first.tag).status(200).with("content-type", JSON),
        audit("audit from an earlier date", days_ago(14), &first.tag).status(200),
        audit("audit of an unknown tag", day, &format!("{day_of}-99999")).refused(404, "batch-unknown"),
        audit("audit of no tag", day, "x").refused(404, "batch-unknown"),
        audit("audit from a later date", after, &first.tag).refused(404, "batch-unknown"),
        audit("audit from too long ago", days_ago(15), &first.tag).refused(410, "date-too-old"),
        s.get("audit of no date", &format!("diagnosiskeys/audit/download/x/{}", first.tag))
            .refused(400, "date-malformed"),
        s.get("audit without a tag", &format!("diagnosiskeys/audit/download/{day}"))
            .refused(404, "not-found"),
        s.get("what is spoken", "diagnosiskeys")
            .method(Method::OPTIONS)
            .by(None)
            .status(200)
            .with("allow", "POST,GET,OPTIONS")
            .with("accept", "application/json; version=1.0, application/protobuf; version=1.0"),
        s.get("no path", "").by(None).refused(404, "not-found"),
        s.get("no such path", "diagnosiskeys/upload/2").refused(404, "not-found"),
        s.get("upload by GET", "diagnosiskeys/upload")
            .refused(405, "method-not-allowed")
            .with("allow", "POST"),
        s.get("upload by PUT", "diagnosiskeys/upload")
            .method(Method::PUT)
            .refused(405, "method-not-allowed")
            .with("allow", "POST"),
        on("download by POST", day)
            .method(Method::POST)
            .refused(405, "method-not-allowed")
            .with("allow", "GET,HEAD"),
        on("download by DELETE", day)
            .method(Method::DELETE)
            .refused(405, "method-not-allowed")
            .with("allow", "GET,HEAD"),
        audit("audit by POST", day, &first.tag)
            .method(Method::POST)
            .refused(405, "method-not-allowed")
            .with("allow", "GET,HEAD"),
        s.get("options by GET", "diagnosiskeys").refused(405, "method-not-allowed").with("allow", "OPTIONS"),
    ];
    let refusals = [
        (None, 403, "client-certificate-missing"),
        (Some("stranger"), 403, "client-certificate-unknown"),
        (Some("no country"), 400, "client-country-missing"),
        (Some("DE revoked"), 403, "client-certificate-not-in-force"),
        (Some("DE signing"), 403, "client-certificate-unknown"),
    ];
    for (who, status, code) in refusals {
        let by = |row: Row| row.by(who.map(|who| &s.people[who])).refused(status, code);
        rows.push(by(on(&format!("download by {who:?}"), day)));
        rows.push(by(audit(&format!("audit by {who:?}"), day, &first.tag)));
    }
    for who in ["PL", "DE zero", "EL"] {
        rows.push(on(&format!("download by {who}"), day).by(Some(&s.people[who])).status(200));
    }
    rows
}

/// That both encodings hold the same keys.
pub fn encodings(s: &Scene, exchange: &Exchange, page: &Page) -> Result<(), String> {
    let call = Call::new(Method::GET, format!("/diagnosiskeys/download/{}", page.date()))
        .header("accept", JSON)
        .header("batchTag", &page.tag);
    let reply = exchange.call(s.door, Some(&s.people["FR"]), &call).unwrap();
    let same = efgs::decode(Encoding::Json, reply.body).is_ok_and(|keys| keys == page.keys);
    if same { Ok(()) } else { Err(format!("{:?}: {} differs in JSON", s.door, page.tag)) }
}

/// Verifies a batch as a downloader does: keys by `amount`, signature, certificates. Returns how many entries prove it.
pub fn audit(s: &Scene, exchange: &Exchange, code: &str, page: &Page) -> Result<usize, String> {
    let path = format!("/diagnosiskeys/audit/download/{}/{}", page.date(), page.tag);
    let reply = exchange.call(s.door, Some(&s.people[code]), &Call::new(Method::GET, path)).unwrap();
    let (mut rest, mut proven) = (page.keys.as_slice(), 0);
    for entry in reply.json().as_array().ok_or("no list")? {
        let wrong = |what: &str| {
            format!("{:?}: {code}, {}: an upload of {}: {what}", s.door, page.tag, entry["country"])
        };
        let amount =
            entry["amount"].as_u64().and_then(|n| usize::try_from(n).ok()).ok_or_else(|| wrong("amount"))?;
        let (keys, more) = rest.split_at_checked(amount).ok_or_else(|| wrong("more keys than there are"))?;
        rest = more;
        if entry["originProof"] == false {
            continue;
        }
        proves(s, keys, entry).ok_or_else(|| wrong("is not proven"))?;
        proven += 1;
    }
    if rest.is_empty() {
        Ok(proven)
    } else {
        Err(format!("{}: {} keys are in no entry", page.tag, rest.len()))
    }
}

fn proves(s: &Scene, keys: &[DiagnosisKey], entry: &Value) -> Option<()> {
    let certificate = |[pem, signature, thumbprint]: [&str; 3]| {
        let pem = entry[pem].as_str()?;
        let signature = STANDARD.decode(entry[signature].as_str()?).ok()?;
        let anchor = s.world.anchor.certificate.x509().public_key().ok()?;
        let mut verifier = Verifier::new(MessageDigest::sha256(), &anchor).ok()?;
        verifier.verify_oneshot(&signature, pem.as_bytes()).ok()?.then_some(())?;
        let certificate = Certificate::from_pem(pem).ok()?;
        // All 64 digits, those of zeros included.
        (entry[thumbprint] == hex::encode(certificate.sha256())).then_some(certificate)
    };
    certificate(["uploaderCertificate", "uploaderOperatorSignature", "uploaderThumbprint"])?;
    let signing = ["signingCertificate", "signingCertificateOperatorSignature", "uploaderSigningThumbprint"];
    let signing = certificate(signing)?;
    let cms = STANDARD.decode(entry["batchSignature"].as_str()?).ok()?;
    Detached::read(&cms).ok()?.verify(Canonical::of(keys).bytes(), &signing).then_some(())
}
