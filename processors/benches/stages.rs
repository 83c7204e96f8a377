//! What each stage costs a key: CPU time and allocations, for small and for full uploads.
//!
//! Times are those of the thread and not of the wall, and the least of many runs is printed: what else runs on the
//! machine adds to all others. Each run takes an upload that was never seen before, as a processor does. Besides the
//! table there is `target/bench/stages.json`, flat.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

#[path = "stages/cpu.rs"]
mod cpu;
#[path = "stages/scene.rs"]
mod scene;
#[path = "stages/table.rs"]
mod table;

use std::{cell::RefCell, hint::black_box};

use bytes::Bytes;
use keyferry_processors::{
    deduplicate::deduplicate,
    examine::Examined,
    pipeline::{Step, step},
    sign::sign,
    tag::tag,
    validate::validate,
};
use keyferry_schemas::{
    avro::Record,
    batch::sha256,
    canonical::Canonical,
    efgs::{self, DiagnosisKey, Encoding},
    records::Upload,
    rules::{self, Signers},
};

use crate::{
    scene::{NOW, Scene, de},
    table::Table,
};

const SIZES: [usize; 2] = [100, 5000];
const VISITED: [(&str, usize); 2] = [("", 4), ("_no_countries", 0)];
const DESTINATIONS: [usize; 2] = [4, 26];

fn main() {
    let mut table = Table::default();
    for keys in SIZES {
        for (suffix, countries) in VISITED {
            reading(&mut table, &format!("{keys}{suffix}"), &Scene::new(4, keys, countries));
        }
        for destinations in DESTINATIONS {
            let scene = RefCell::new(Scene::new(destinations, keys, 4));
            deciding(&mut table, &format!("{keys}x{destinations}"), &scene);
        }
    }
    table.finish();
}

/// The stages that depend on the upload only.
fn reading(table: &mut Table, case: &str, scene: &Scene) {
    let network = &scene.network;
    let upload = scene.upload();
    let read = |upload: &Upload| efgs::decode(Encoding::Protobuf, upload.payload.clone()).unwrap();
    let keys: Vec<DiagnosisKey> = read(&upload);
    let n = keys.len();
    let canonical = Canonical::of(&keys);
    let signed = canonical.bytes();
    let mut measure = |stage: &str, run: &dyn Fn()| table.measure(stage, case, n, || (), |()| run());

    measure("decode", &|| drop(black_box(read(&upload))));
    measure("canonical", &|| {
        let canonical = Canonical::of(black_box(&keys));
        black_box(sha256(black_box(canonical.bytes())));
    });
    measure("cms", &|| {
        let signer = rules::signer(&upload.batch_signature, signed, de(), network, NOW, Signers::InForce);
        black_box(signer.is_ok());
    });
    measure("examine", &|| {
        drop(black_box(Examined::of(upload.clone(), de(), network, &scene.tools.secrets)));
    });
    let examined = Examined::of(upload.clone(), de(), network, &scene.tools.secrets);
    measure("validate", &|| _ = black_box(validate(&examined, de(), network, NOW).is_ok()));
    measure("fingerprint", &|| {
        keys.iter().for_each(|key| _ = black_box(scene.tools.secrets.current.fingerprint(key)));
    });
    measure("encode_keys", &|| drop(black_box(efgs::encode_protobuf(black_box(&keys)))));
    measure("upload_to_avro", &|| drop(black_box(upload.to_avro())));
    let avro = Bytes::from(upload.to_avro());
    measure("upload_from_avro", &|| _ = black_box(Upload::from_avro(avro.clone()).is_ok()));
}

/// The stages that depend on state and destinations, and all of them together.
fn deciding(table: &mut Table, case: &str, scene: &RefCell<Scene>) {
    let n = scene.borrow().keys;
    let network = scene.borrow().network.clone();
    let examined = {
        let scene = scene.borrow();
        Examined::of(scene.upload(), de(), &network, &scene.tools.secrets)
    };
    let verified = || validate(&examined, de(), &network, NOW).ok().unwrap();
    let deduplicated = || deduplicate(verified(), &scene.borrow().state);
    table.measure("deduplicate", case, n, verified, |verified| {
        drop(black_box(deduplicate(verified, &scene.borrow().state)));
    });
    table.measure("tag", case, n, deduplicated, |d| drop(black_box(tag(d, &network, NOW))));
    let tagged = || tag(deduplicated(), &network, NOW);
    table.measure("sign", case, n, tagged, |tagged| {
        let scene = scene.borrow();
        let signer = &scene.tools.signers[0];
        drop(black_box(sign(&tagged, scene.state.position(), &network, signer)));
    });

    let source = || scene.borrow_mut().source();
    let decide = |source| {
        let Scene { state, tools, network, .. } = &mut *scene.borrow_mut();
        step(state, source, network, tools).unwrap()
    };
    let encode = |step: &Step| {
        step.batches.iter().for_each(|(_, batch)| drop(black_box(batch.to_avro())));
    };
    let abort = || scene.borrow_mut().state.abort();
    let commit = || scene.borrow_mut().state.commit();
    table.measure(
        "encode",
        case,
        n,
        || decide(source()),
        |step| {
            encode(&step);
            abort();
        },
    );
    table.measure("commit", case, n, || decide(source()), |_| commit());
    table.measure("whole", case, n, source, |source| {
        encode(&decide(source));
        commit();
    });
}
