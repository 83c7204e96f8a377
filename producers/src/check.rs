//! `POST /diagnosiskeys/check`: what would become of an upload, as far as that needs no state. Nothing is written.
//!
//! A country tries its next signing certificate with it, before its time has come. It is a path of its own, and no header
//! or parameter of the upload: whatever does not know it, such as an older gateway, answers 404 and never takes a trial
//! for an upload. A trial costs as much as an upload, so it counts against the same limits.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde_json::{Value, json};

use keyferry_runtime::http::Problem;
use keyferry_schemas::{
    canonical::Canonical,
    country::Country,
    network::{InvalidKeys, Network},
    records::Hash,
    rejection::Rejection,
    rules::{self, Rejected, Signers},
    time::Millis,
};

use crate::{
    answer, body,
    gateway::Inner,
    head::Head,
    upload::{Admitted, admit, network},
};

/// One trial, from its first header to its answer.
pub(crate) async fn check(State(gateway): State<Arc<Inner>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let limit = gateway.config.max_body_bytes;
    let Admitted { country, certificate, head, _ticket, .. } = match admit(&gateway, &parts) {
        Ok(admitted) => admitted,
        Err(problem) => {
            body::linger(body, limit);
            tracing::info!(%problem, "a trial is refused");
            return problem.into_response();
        }
    };
    let answer = async {
        let body = body::read(body, limit, body::PATIENCE).await?;
        let (network, now) = (network(&gateway)?, gateway.clock.now());
        let trial = Trial { country, certificate, head, body };
        gateway.apart(move || judge(&trial, &network, now)).await
    };
    match answer.await {
        Ok(found) => {
            tracing::info!(%country, state = %found["signature"]["state"], "an upload was tried");
            let mut response = Response::new(Body::from(found.to_string()));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(problem) => {
            tracing::info!(%country, %problem, "a trial would be refused");
            problem.into_response()
        }
    }
}

/// An upload that is only tried.
struct Trial {
    country: Country,
    certificate: Hash,
    head: Head,
    body: Bytes,
}

/// What the rules say at `now`, in the order of the pipeline: what is good, or the problem that would answer the upload.
fn judge(trial: &Trial, network: &Network, now: Millis) -> Result<Value, Problem> {
    let country = trial.country;
    let member = rules::sender(&trial.certificate, country, network, now).map_err(problem)?;
    let keys = rules::keys(trial.head.encoding, &trial.body, member).map_err(problem)?;
    rules::same_origin(&keys, country, network).map_err(problem)?;
    let canonical = Canonical::of(&keys);
    let signed = canonical.bytes();
    let cms = &trial.head.signature;
    let signer = rules::signer(cms, signed, country, network, now, Signers::InForceOrPending);
    let signer = signer.map_err(problem)?;
    let term = signer.term();
    let signature = json!({
        "certificate": hex::encode(signer.certificate.sha256()),
        "state": network.certificate_state(signer, now).name(),
        "from": term.from.to_string(),
        "until": term.end().to_string(),
    });
    let judged = keys.iter().map(|key| rules::key(key, member.days_since_onset, now).err());
    let invalid: Vec<_> =
        (0u32..).zip(judged).filter_map(|(i, fault)| Some((i, fault?.code().into()))).collect();
    if let (Some((index, code)), InvalidKeys::RejectUpload) = (invalid.first(), member.invalid_keys) {
        let detail =
            format!("{} of {} keys are invalid, first key {index}: {code}", invalid.len(), keys.len());
        // It is good to know that it is not the signature.
        let problem = answer::rejected(&Rejection::InvalidKeys.code().into(), &detail, &invalid);
        return Err(problem.with("signature", signature));
    }
    Ok(json!({
        "keys": keys.len(),
        "invalid_keys": answer::listed(&invalid),
        "signature": signature,
    }))
}

fn problem(rejected: Rejected) -> Problem {
    Problem::rejection(rejected.reason, rejected.detail)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use keyferry_schemas::{
        efgs::{self, DiagnosisKey, Encoding},
        network::Use,
        world::{Algorithm, Identity, Rng, World, key},
    };

    use super::*;

    const NOW: Millis = Millis(1_700_000_000_000);

    /// DE with three more certificates to sign with: one to come, one that was revoked, one that will never be.
    struct Scene {
        world: World,
        next: Identity,
        revoked: Identity,
        never: Identity,
    }

    impl Scene {
        fn new() -> Self {
            let now = NOW.timestamp();
            let mut world = World::new(&["DE", "FR"], now).unwrap();
            let [day, year] = [24, 24 * 365].map(SignedDuration::from_hours);
            let make = || Identity::new("DE", "Batch signing", Algorithm::P256, now).unwrap();
            let (next, revoked, never) = (make(), make(), make());
            let registered = [
                (&next, now + day, None),
                (&revoked, now - day, Some(now)),
                (&never, now + day, Some(now + day)),
            ];
            for (identity, from, revoked) in registered {
                let mut entry = world.register(identity, Use::Signing, from, now + year).unwrap();
                entry.revoked = revoked;
                world.member_mut("DE").unwrap().certificates.push(entry);
            }
            Self { world, next, revoked, never }
        }

        /// What `signer` signs as DE and would send.
        fn judge(&self, signer: &Identity, keys: &[DiagnosisKey]) -> Result<Value, Problem> {
            let signature = signer.sign(Canonical::of(keys).bytes()).unwrap().into();
            let encoding = Encoding::Protobuf;
            let head = Head { encoding, batch_tag: "tag".into(), signature, respond_async: false };
            let nation = self.world.nation("DE").unwrap();
            let certificate = nation.authentication.certificate.sha256();
            let body = efgs::encode_protobuf(keys).into();
            judge(
                &Trial { country: nation.country, certificate, head, body },
                &self.world.network().unwrap(),
                NOW,
            )
        }
    }

    fn keys(n: usize) -> Vec<DiagnosisKey> {
        let mut rng = Rng::new(1);
        (0..n).map(|_| key(&mut rng, "DE", &[], NOW)).collect()
    }

    #[test]
    fn a_certificate_to_come_is_told_from_one_in_force() {
        let scene = Scene::new();
        for (signer, state) in
            [(&scene.next, "pending"), (&scene.world.nation("DE").unwrap().signing, "active")]
        {
            let found = scene.judge(signer, &keys(2)).unwrap();
            assert_eq!((&found["keys"], &found["invalid_keys"]), (&json!(2), &json!([])));
            assert_eq!(found["signature"]["state"], state);
            assert_eq!(found["signature"]["certificate"], hex::encode(signer.certificate.sha256()));
        }
        let found = scene.judge(&scene.next, &keys(1)).unwrap();
        assert_eq!(found["signature"]["from"], "2023-11-15T22:13:20Z");
        assert_eq!(found["signature"]["until"], "2024-09-09T22:13:20.001Z", "the certificate ends first");
    }

    #[test]
    fn what_an_upload_would_be_refused_for_a_trial_is_too() {
        let scene = Scene::new();
        let fr = &scene.world.nation("FR").unwrap().signing;
        let stranger = Identity::new("DE", "Batch signing", Algorithm::P256, NOW.timestamp()).unwrap();
        let good = keys(2);
        let mut foreign = keys(2);
        foreign[1].origin = "FR".into();
        for (signer, keys, status, code) in [
            (&scene.revoked, &good, 400, "signing-certificate-not-in-force"),
            (&scene.never, &good, 400, "signing-certificate-not-in-force"),
            (fr, &good, 400, "signing-certificate-foreign"),
            (&stranger, &good, 400, "signing-certificate-unknown"),
            (&scene.next, &foreign, 400, "key-origin-foreign"),
            (&scene.next, &Vec::new(), 400, "no-keys"),
            (&scene.next, &keys(5001), 413, "too-many-keys"),
        ] {
            let problem = scene.judge(signer, keys).unwrap_err();
            assert_eq!((problem.status().as_u16(), problem.code()), (status, code));
        }
        // Over other keys than those that come.
        let signature = scene.next.sign(Canonical::of(&keys(1)).bytes()).unwrap().into();
        let head =
            Head { encoding: Encoding::Protobuf, batch_tag: "tag".into(), signature, respond_async: false };
        let certificate = scene.world.nation("DE").unwrap().authentication.certificate.sha256();
        let country = "DE".parse().unwrap();
        let mut trial = Trial { country, certificate, head, body: efgs::encode_protobuf(&good).into() };
        let network = scene.world.network().unwrap();
        assert_eq!(judge(&trial, &network, NOW).unwrap_err().code(), "signature-invalid");
        trial.body = Bytes::from_static(&[0xff]);
        assert_eq!(judge(&trial, &network, NOW).unwrap_err().code(), "body-unreadable");
        trial.certificate = [0; 32];
        assert_eq!(judge(&trial, &network, NOW).unwrap_err().code(), "client-certificate-unknown");
    }

    #[test]
    fn invalid_keys_count_by_the_policy_of_the_member() {
        let mut scene = Scene::new();
        let mut keys = keys(4);
        keys[1].rolling_start_interval_number = 0;
        keys[3].rolling_period = 145;
        let listed = json!([{ "index": 1, "code": "key-too-old" }, { "index": 3, "code": "rolling-period" }]);
        let problem = scene.judge(&scene.next, &keys).unwrap_err();
        assert_eq!((problem.status().as_u16(), problem.code()), (400, "invalid-keys"));
        let text = format!("{problem:?}");
        assert!(text.contains("pending") && text.contains("rolling-period"), "{text}");
        assert!(
            problem.to_string().ends_with("2 of 4 keys are invalid, first key 1: key-too-old"),
            "{problem}"
        );
        scene.world.member_mut("DE").unwrap().invalid_keys = InvalidKeys::RejectKey;
        let found = scene.judge(&scene.next, &keys).unwrap();
        assert_eq!((&found["keys"], &found["invalid_keys"]), (&json!(4), &listed));
    }
}
