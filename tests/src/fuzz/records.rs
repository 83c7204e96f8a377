//! Our Avro and the framing around it, against `apache-avro`.

use std::{
    collections::HashMap,
    sync::{LazyLock, OnceLock},
};

use apache_avro::{
    Schema, reader::datum::GenericDatumReader, types::Value, writer::datum::GenericDatumWriter,
};
use bytes::Bytes;
use keyferry_runtime::codec::{Codec, KeysRecord, SCHEMAS, SchemaSource};
use keyferry_schemas::{
    avro::{AvroError, Record},
    batch::{Checkpoint, Manifest, SignedBatch},
    records::{Head, LedgerEntry, NetworkRecord, Upload},
};

use super::one_line;

/// Runs a check of the record type that a byte chooses.
macro_rules! chosen {
    ($byte:expr, $check:ident($($argument:expr),*)) => {
        match $byte % 7 {
            0 => $check::<Upload>($($argument),*),
            1 => $check::<LedgerEntry>($($argument),*),
            2 => $check::<Head>($($argument),*),
            3 => $check::<NetworkRecord>($($argument),*),
            4 => $check::<Manifest>($($argument),*),
            5 => $check::<SignedBatch>($($argument),*),
            _ => $check::<Checkpoint>($($argument),*),
        }
    };
}

/// The binary of one record, of the type that the first byte chooses.
pub fn avro(data: &[u8]) {
    let Some((which, data)) = data.split_first() else { return };
    chosen!(which, agrees(data));
}

fn agrees<R: Record + PartialEq>(data: &[u8]) {
    let schema = schema(R::NAME);
    let (ours, theirs) = (R::from_avro(Bytes::copy_from_slice(data)), read(schema, data));
    match (ours, theirs) {
        (Ok(record), Some(value)) => {
            let written = record.to_avro();
            assert!(written.len() <= data.len(), "{} grows", R::NAME);
            assert!(written == write(schema, value), "{} is read otherwise", R::NAME);
            assert!(R::from_avro(written.into()).is_ok_and(|back| back == record), "{} is lost", R::NAME);
        }
        (Ok(_), None) => panic!("{}: only ours reads it", R::NAME),
        // Ours asks for more: codes of countries, and no number of more than 64 bits, which the library cuts.
        (Err(error @ AvroError::Text("not a country code")), Some(value)) => {
            assert_eq!(R::from_avro(write(schema, value).into()).err(), Some(error));
        }
        (Err(AvroError::Number), Some(_)) | (Err(_), None) => (),
        (Err(error), Some(_)) => panic!("{}: only ours refuses it: {error}", R::NAME),
    }
}

fn schema(name: &str) -> &'static Schema {
    static SCHEMA: LazyLock<HashMap<&str, Schema>> = LazyLock::new(|| {
        SCHEMAS.iter().map(|(name, text)| (*name, Schema::parse_str(text).unwrap())).collect()
    });
    &SCHEMA[name]
}

/// What the library reads, if it reads every byte and wants no more: of a record that is cut short it makes nulls.
fn read(schema: &Schema, data: &[u8]) -> Option<Value> {
    let reader = GenericDatumReader::builder(schema).build().unwrap();
    let mut rest = data;
    let value = reader.read_value(&mut rest).ok()?;
    if !rest.is_empty() {
        return None;
    }
    // Of any other record a byte more is a byte too many.
    let mut longer = &[data, &[0]].concat()[..];
    let again = reader.read_value(&mut longer);
    (again.is_ok_and(|again| again == value) && longer.len() == 1).then_some(value)
}

fn write(schema: &Schema, value: Value) -> Vec<u8> {
    GenericDatumWriter::builder(schema).build().unwrap().write_value_to_vec(value).unwrap()
}

/// Schemas of others that a registry may hold: ours under other ids, and one that nests for ever.
struct Others;

const RECURSIVE: &str = r#"{"type":"record","name":"List","namespace":"other","fields":[
    {"name":"next","type":["null","other.List"]}]}"#;

impl SchemaSource for Others {
    fn schema(&self, id: u32) -> Result<Option<String>, String> {
        let own = usize::try_from(id).ok().and_then(|id| SCHEMAS.get(id.checked_sub(100)?));
        Ok(own.map(|(_, text)| (*text).to_owned()).or_else(|| (id == 200).then(|| RECURSIVE.to_owned())))
    }
}

/// Without a registry, and with one.
fn codecs() -> &'static [Codec; 2] {
    static CODECS: OnceLock<[Codec; 2]> = OnceLock::new();
    CODECS.get_or_init(|| {
        let ids = SCHEMAS.iter().zip(1..).map(|((name, _), id)| ((*name).to_owned(), id)).collect();
        [Codec::single_object().unwrap(), Codec::with_registry(&ids, Box::new(Others)).unwrap()]
    })
}

/// A framed record.
pub fn framing(data: &[u8]) {
    let framed = Bytes::copy_from_slice(data);
    for codec in codecs() {
        let read = (0..7u8).filter(|which| chosen!(which, comes_back(codec, &framed))).count();
        assert!(read <= 1, "a record of {read} types");
        match codec.decode_keys(framed.clone()) {
            Ok(KeysRecord::Batch(batch)) => assert!(codec.decode(framed.clone()) == Ok(batch)),
            Ok(KeysRecord::Checkpoint(one)) => assert!(codec.decode(framed.clone()) == Ok(one)),
            Err(error) => one_line(&error),
        }
    }
    // The same binary, said to be written with a schema that differs in its id only.
    if let [0, _, _, _, id @ 1..=7, binary @ ..] = data {
        chosen!(id - 1, resolves(&codecs()[1], id - 1, binary));
    }
}

/// Whether it is a record of this type, which then has one form.
fn comes_back<R: Record + PartialEq>(codec: &Codec, framed: &Bytes) -> bool {
    match codec.decode::<R>(framed.clone()) {
        Ok(record) => {
            assert!(codec.decode::<R>(codec.encode(&record).into()).is_ok_and(|back| back == record));
            true
        }
        Err(error) => {
            one_line(&error);
            false
        }
    }
}

fn resolves<R: Record + PartialEq>(codec: &Codec, which: u8, binary: &[u8]) {
    assert_eq!(SCHEMAS[usize::from(which)].0, R::NAME);
    let framed = |id: u8| Bytes::from([&[0, 0, 0, 0, id], binary].concat());
    match (codec.decode::<R>(framed(which + 1)), codec.decode::<R>(framed(which + 100))) {
        (Ok(ours), Ok(resolved)) => assert!(ours == resolved, "{} resolves to another", R::NAME),
        (Ok(_), Err(error)) => panic!("{} does not resolve to itself: {error}", R::NAME),
        // The library drops bits beyond the 64th of a number.
        (Err(AvroError::Number) | Err(_), Err(_)) | (Err(AvroError::Number), Ok(_)) => (),
        (Err(error), Ok(_)) => panic!("{} resolves, and is none: {error}", R::NAME),
    }
}
