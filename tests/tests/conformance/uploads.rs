//! `POST /diagnosiskeys/upload`: headers, bodies, signatures, sizes, and the same again.

use keyferry_schemas::{
    canonical::Canonical,
    efgs::{Codes, DiagnosisKey, encode_json, encode_protobuf},
};

use crate::{row::Row, scene::Scene};

const PROTOBUF: &str = "application/protobuf; version=1.0";
const JSON: &str = "application/json; version=1.0";
const ACCEPTED: &str = "application/json; version=1.0, application/protobuf; version=1.0";

pub fn headers(s: &Scene) -> Vec<Row> {
    let typed = |name: &str, text: &str| s.de(name, s.keys::<1>()).header("content-type", text);
    let json = |name: &str, text: &str| s.de(name, s.keys::<1>()).json().header("content-type", text);
    vec![
        typed("protobuf", PROTOBUF).created(),
        typed("protobuf, no space", "application/protobuf;version=1.0").created(),
        typed("protobuf, in capitals", "Application/Protobuf; Version=\"1.0\"").created(),
        json("json", JSON).created(),
        json("json with a charset", "application/json; charset=utf-8; version=1.0").created(),
        typed("no version", "application/protobuf").refused(400, "media-type-version-missing"),
        json("no version, json", "application/json").refused(400, "media-type-version-missing"),
        json("charset, no version", "application/json; charset=utf-8")
            .refused(400, "media-type-version-missing"),
        typed("version 1", "application/protobuf; version=1").refused(400, "media-type-version-malformed"),
        typed("version 1.x", "application/protobuf; version=1.x")
            .refused(400, "media-type-version-malformed"),
        typed("version 1.0.0", "application/protobuf; version=1.0.0")
            .refused(400, "media-type-version-malformed"),
        json("version -1.0", "application/json; version=-1.0").refused(400, "media-type-version-malformed"),
        json("empty version", "application/json; version=").refused(400, "media-type-version-malformed"),
        typed("version 1.1", "application/protobuf; version=1.1").refused(406, "media-type-version-unknown"),
        json("version 2.0", "application/json; version=2.0").refused(406, "media-type-version-unknown"),
        typed("text", "text/plain; version=1.0").refused(415, "media-type-unknown").with("accept", ACCEPTED),
        typed("xml, no version", "application/xml")
            .refused(415, "media-type-unknown")
            .with("accept", ACCEPTED),
        s.de("no type", s.keys::<1>())
            .without("content-type")
            .refused(415, "media-type-unknown")
            .with("accept", ACCEPTED),
        s.de("no tag", s.keys::<1>()).without("batchTag").refused(400, "batch-tag-missing"),
        s.de("empty tag", s.keys::<1>()).tag("").refused(400, "batch-tag-malformed"),
        s.de("tag with a space", s.keys::<1>()).tag("a b").refused(400, "batch-tag-malformed"),
        s.de("tag that is no ASCII", s.keys::<1>()).tag("\u{e4}").refused(400, "batch-tag-malformed"),
        s.de("two tags", s.keys::<1>()).twice("batchTag", "b").refused(400, "batch-tag-malformed"),
        s.de("tag of 129", s.keys::<1>()).tag(&"t".repeat(129)).refused(400, "batch-tag-malformed"),
        s.de("tag of 128", s.keys::<1>()).tag(&long_tag(s)).created(),
        s.de("no signature", s.keys::<1>()).without("batchSignature").refused(400, "signature-missing"),
        s.de("empty signature", s.keys::<1>()).header("batchSignature", "").refused(400, "signature-missing"),
        s.de("signature of no base64", s.keys::<1>())
            .header("batchSignature", "-----")
            .refused(400, "signature-not-base64"),
    ]
}

fn long_tag(s: &Scene) -> String {
    format!("{:?}", s.door).chars().cycle().take(128).collect()
}

pub fn bodies(s: &Scene) -> Vec<Row> {
    // Days that are not 0, so that they have to be read for the signature to hold.
    let onset = || [DiagnosisKey { days_since_onset_of_symptoms: -3, ..s.key() }];
    let (snake, camel) = ("\"days_since_onset_of_symptoms\"", "\"daysSinceOnsetOfSymptoms\"");
    let json = |body: &str| s.de(body, []).json().body(body.to_owned());
    let short = |keys: &[DiagnosisKey]| encode_json(keys)[..100].to_vec();
    vec![
        s.de("onset as EFGS spells it", onset()).json().rewritten(snake, snake).created(),
        s.de("onset in camel case", onset()).json().rewritten(snake, camel).created(),
        s.de("onset in both", onset())
            .json()
            .rewritten(snake, &format!("{camel}:-3,{snake}"))
            .refused(400, "body-unreadable"),
        s.de("onset in another", onset())
            .json()
            .rewritten(snake, "\"dsos\"")
            .refused(400, "signature-invalid"),
        s.de("report type as a number", s.keys::<1>()).json().rewritten("\"CONFIRMED_TEST\"", "1").created(),
        s.de("report type by an unknown name", s.keys::<1>())
            .json()
            .rewritten("CONFIRMED_TEST", "NEITHER")
            .refused(400, "body-unreadable"),
        s.de("unknown fields", s.keys::<1>()).json().rewritten("{\"keys\"", "{\"more\":1,\"keys\"").created(),
        s.de("no countries", [DiagnosisKey { visited_countries: Codes::default(), ..s.key() }]).created(),
        s.de("no countries, json", [DiagnosisKey { visited_countries: Codes::default(), ..s.key() }])
            .json()
            .created(),
        s.de("protobuf without keys", []).refused(400, "no-keys"),
        json("{}").refused(400, "no-keys"),
        json("{\"keys\":[]}").refused(400, "no-keys"),
        json("").refused(400, "body-unreadable"),
        json("[]").refused(400, "body-unreadable"),
        json("null").refused(400, "body-unreadable"),
        json("{\"keys\":{}}").refused(400, "body-unreadable"),
        json("{\"keys\":[{\"keyData\":\"%%%\"}]}").refused(400, "body-unreadable"),
        json("{\"keys\":[{\"rollingPeriod\":-1}]}").refused(400, "body-unreadable"),
        s.de("json cut short", s.keys::<2>())
            .json()
            .body(short(&s.keys::<2>()))
            .refused(400, "body-unreadable"),
        s.de("protobuf of garbage", s.keys::<1>()).body(vec![0xff; 100]).refused(400, "body-unreadable"),
        s.de("protobuf cut short", s.keys::<1>())
            .body(encode_protobuf(&s.keys::<1>())[..30].to_vec())
            .refused(400, "body-unreadable"),
        s.de("json as protobuf", s.keys::<1>())
            .json()
            .header("content-type", PROTOBUF)
            .refused(400, "body-unreadable"),
        s.de("protobuf as json", s.keys::<1>()).header("content-type", JSON).refused(400, "body-unreadable"),
    ]
}

pub fn signatures(s: &Scene) -> Vec<Row> {
    let signed = |name: &str, signer: &str| s.de(name, s.keys::<2>()).signed_by(&s.people[signer]);
    let cms = |keys: &[DiagnosisKey]| s.people["DE signing"].sign(Canonical::of(keys).bytes()).unwrap();
    let keys = s.keys::<2>();
    let upside_down: Vec<_> = keys.iter().rev().cloned().collect();
    let other_country = || [s.key(), s.key_of("FR")];
    vec![
        s.de("signed in whatever order", upside_down).signature(&cms(&keys)).created(),
        signed("signed by one whose thumbprint begins with zeros", "DE zero signing").created(),
        s.de("over other keys", s.keys::<1>())
            .signature(&cms(&s.keys::<1>()))
            .refused(400, "signature-invalid"),
        s.de("over more keys", s.keys::<1>())
            .signature(&cms(&s.keys::<2>()))
            .refused(400, "signature-invalid"),
        s.de("of no CMS", s.keys::<1>()).signature(b"certainly no CMS").refused(400, "signature-malformed"),
        s.de("with bytes behind it", keys.clone())
            .signature(&[cms(&keys), vec![0]].concat())
            .refused(400, "signature-trailing-bytes"),
        signed("by a stranger", "stranger").refused(400, "signing-certificate-unknown"),
        signed("by the certificate of another use", "DE").refused(400, "signing-certificate-unknown"),
        signed("by another country", "FR signing").refused(400, "signing-certificate-foreign"),
        signed("by one not in force yet", "DE signs next year")
            .refused(400, "signing-certificate-not-in-force"),
        signed("by one that is revoked", "DE signing revoked")
            .refused(400, "signing-certificate-not-in-force"),
        s.de("keys of another country", [s.key_of("FR")]).refused(400, "key-origin-foreign"),
        s.de("keys of two countries", other_country()).refused(400, "key-origin-foreign"),
        s.de("keys of no country", [s.key_of("")]).refused(400, "key-origin-foreign"),
        s.upload("FR", "another country's keys and signature", s.keys::<1>())
            .signed_by(&s.people["DE signing"])
            .refused(400, "key-origin-foreign"),
    ]
}

/// As many as may be, one fewer, one more.
pub fn sizes(s: &Scene) -> Vec<Row> {
    let spanish = |n: usize| (0..n).map(|_| s.key_of("ES")).collect::<Vec<_>>();
    vec![
        s.de("4999 keys", s.many(4999)).created(),
        s.de("5000 keys", s.many(5000)).json().created(),
        s.de("5001 keys", s.many(5001)).refused(413, "too-many-keys"),
        s.de("5001 keys, json", s.many(5001)).json().refused(413, "too-many-keys"),
        s.de("too many bytes", []).body(vec![0; 2 << 20]).refused(413, "body-too-large"),
        s.upload("ES", "as many as a member may", spanish(3)).created(),
        s.upload("ES", "more than a member may", spanish(4)).refused(413, "too-many-keys"),
    ]
}

/// What a tag stands for once it was used. In this order.
pub fn tags(s: &Scene) -> Vec<Row> {
    let p = s.keys::<16>();
    let k = |indexes: &[usize]| indexes.iter().map(|i| p[*i].clone()).collect::<Vec<_>>();
    let row = |name: &str, tag: &str, indexes: &[usize]| {
        s.de(name, k(indexes)).tag(&format!("{:?}/+{tag}==", s.door))
    };
    let conflict = "batch-tag-conflict";
    let french = s.key_of("FR");
    vec![
        row("new", "a", &[0, 1, 2]).created(),
        row("again, signed anew", "a", &[0, 1, 2]).repeated(),
        row("in another order", "a", &[2, 0, 1]).repeated(),
        row("as JSON", "a", &[1, 2, 0]).json().repeated(),
        row("other content", "a", &[3]).refused(409, conflict),
        row("a part of it, though all was taken", "a", &[0, 1]).refused(409, conflict),
        row("more than it", "a", &[0, 1, 2, 3]).refused(409, conflict),
        s.upload("FR", "the same tag of another country", [french.clone()])
            .tag(&format!("{:?}/+a==", s.door))
            .created(),
        s.upload("FR", "that again", [french]).tag(&format!("{:?}/+a==", s.door)).repeated(),
        row("the conflicts bound and took nothing", "b", &[3]).json().created(),
        row("known from two uploads", "c", &[4, 1, 5, 3, 6]).partial(&[0, 2, 4], &[1, 3]),
        row("known ones again", "c", &[4, 1, 5, 3, 6]).partial_again(&[0, 2, 4], &[1, 3]),
        row("known ones in another order", "c", &[3, 6, 5, 4, 1]).partial_again(&[1, 2, 3], &[0, 4]),
        row("known ones as JSON", "c", &[6, 5, 4, 3, 1]).json().partial_again(&[0, 1, 2], &[3, 4]),
        row("exactly what was taken", "c", &[4, 5, 6]).repeated(),
        row("exactly what was taken, reversed, as JSON", "c", &[6, 5, 4]).json().repeated(),
        row("less than what was taken", "c", &[4, 5]).refused(409, conflict),
        row("exactly what was refused", "c", &[1, 3]).refused(409, conflict),
        row("what was taken and a new one", "c", &[4, 5, 6, 7]).refused(409, conflict),
        row("what was taken, under a tag of its own", "d", &[4, 5, 6]).partial_again(&[], &[0, 1, 2]),
        row("nothing of it again", "d", &[6, 5, 4]).partial_again(&[], &[0, 1, 2]),
        row("one key twice", "e", &[7, 8, 7]).partial(&[0, 1], &[2]),
        row("one key twice, again", "e", &[7, 8, 7]).partial_again(&[0, 1], &[2]),
        row("the keys of it once", "e", &[8, 7]).repeated(),
        row("one key twice, and nothing else", "f", &[9, 9]).partial(&[0], &[1]),
        row("a signature that fails", "g", &[10])
            .signed_by(&s.people["stranger"])
            .refused(400, "signing-certificate-unknown"),
        row("its tag is free for other content", "g", &[11]).created(),
        row("a bad key", "h", &[]).protobuf().refused(400, "no-keys"),
        row("its tag is free", "h", &[12]).created(),
        row("a tag is told from a longer one", "hh", &[13]).created(),
        row("and from one in capitals", "H", &[14]).created(),
    ]
}
