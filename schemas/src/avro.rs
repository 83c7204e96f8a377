//! Avro binary, written by hand for the records on the path: the bytes are those of the `apache-avro` crate (tests
//! compare them), at a tenth of its cost. Records written with another schema are resolved by that crate instead.
//!
//! Every length read is checked against the bytes that are left, so no input can ask for more memory than it has.

use bytes::Bytes;

/// The bytes are not one record of the schema expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AvroError {
    /// The record ends before its last field.
    #[error("the record ends too early")]
    Short,
    /// A number is longer or larger than its type.
    #[error("a number is out of range")]
    Number,
    /// A text is not UTF-8, or not of the form its field asks for.
    #[error("a text field is malformed: {0}")]
    Text(&'static str),
    /// A union or enum branch that the schema does not have.
    #[error("an unknown branch of a union or enum")]
    Branch,
    /// Bytes follow the last field.
    #[error("{0} bytes follow the record")]
    Trailing(usize),
    /// The registry can not be asked about a schema: it may be known later.
    #[error("the schema of the record can not be had: {0}")]
    Unavailable(String),
    /// No known framing, or a schema that is not known here.
    #[error("the schema of the record is not known: {0}")]
    Schema(String),
    /// Bytes of another schema could not be resolved to ours.
    #[error("the record does not resolve to this schema: {0}")]
    Resolve(String),
}

/// A cursor over one record. Byte fields borrow the record.
pub struct Reader {
    rest: Bytes,
}

impl Reader {
    fn take(&mut self, n: usize) -> Result<Bytes, AvroError> {
        if n > self.rest.len() { Err(AvroError::Short) } else { Ok(self.rest.split_to(n)) }
    }

    fn length(&mut self) -> Result<usize, AvroError> {
        let n = usize::try_from(i64::read(self)?).map_err(|_| AvroError::Number)?;
        if n > self.rest.len() { Err(AvroError::Short) } else { Ok(n) }
    }
}

/// A type with an Avro binary form.
pub trait Field: Sized {
    /// Appends the binary form.
    fn write(&self, out: &mut Vec<u8>);
    /// No fewer bytes than [`Field::write`] appends, and not many more.
    fn room(&self) -> usize {
        // The longest number.
        10
    }
    /// Reads it back.
    ///
    /// # Errors
    /// [`AvroError`] if the bytes are no such value.
    fn read(from: &mut Reader) -> Result<Self, AvroError>;
}

/// A record of one of the schemas under `avro/`.
pub trait Record: Field {
    /// Name of the schema, without namespace.
    const NAME: &'static str;
    /// The text of the `.avsc` file.
    const SCHEMA: &'static str;

    /// The Avro binary of this record, without framing.
    fn to_avro(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.room());
        self.write(&mut out);
        out
    }

    /// Reads one record that fills `bytes` exactly.
    ///
    /// # Errors
    /// [`AvroError`] if it does not.
    fn from_avro(bytes: Bytes) -> Result<Self, AvroError> {
        let mut reader = Reader { rest: bytes };
        let record = Self::read(&mut reader)?;
        match reader.rest.len() {
            0 => Ok(record),
            n => Err(AvroError::Trailing(n)),
        }
    }
}

impl Field for i64 {
    fn write(&self, out: &mut Vec<u8>) {
        let mut n = ((self << 1) ^ (self >> 63)) as u64;
        while n > 0x7f {
            out.push(n as u8 | 0x80);
            n >>= 7;
        }
        out.push(n as u8);
    }

    fn read(from: &mut Reader) -> Result<Self, AvroError> {
        let mut n = 0u64;
        for (i, byte) in from.rest.iter().enumerate() {
            // The tenth byte holds the last bit only.
            if i == 9 && *byte > 1 {
                return Err(AvroError::Number);
            }
            n |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                from.take(i + 1)?;
                return Ok((n >> 1) as i64 ^ -((n & 1) as i64));
            }
        }
        Err(AvroError::Short)
    }
}

impl Field for i32 {
    fn write(&self, out: &mut Vec<u8>) {
        i64::from(*self).write(out);
    }

    fn read(from: &mut Reader) -> Result<Self, AvroError> {
        i64::read(from)?.try_into().map_err(|_| AvroError::Number)
    }
}

impl Field for Bytes {
    fn write(&self, out: &mut Vec<u8>) {
        (self.len() as i64).write(out);
        out.extend_from_slice(self);
    }

    fn room(&self) -> usize {
        10 + self.len()
    }

    fn read(from: &mut Reader) -> Result<Self, AvroError> {
        let n = from.length()?;
        from.take(n)
    }
}

impl Field for String {
    fn write(&self, out: &mut Vec<u8>) {
        (self.len() as i64).write(out);
        out.extend_from_slice(self.as_bytes());
    }

    fn room(&self) -> usize {
        10 + self.len()
    }

    fn read(from: &mut Reader) -> Result<Self, AvroError> {
        String::from_utf8(Bytes::read(from)?.into()).map_err(|_| AvroError::Text("not UTF-8"))
    }
}

impl<const N: usize> Field for [u8; N] {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn room(&self) -> usize {
        N
    }

    fn read(from: &mut Reader) -> Result<Self, AvroError> {
        from.take(N)?.as_ref().try_into().map_err(|_| AvroError::Short)
    }
}

impl<T: Field> Field for Option<T> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            None => 0i64.write(out),
            Some(value) => {
                1i64.write(out);
                value.write(out);
            }
        }
    }

    fn room(&self) -> usize {
        1 + self.as_ref().map_or(0, Field::room)
    }

    fn read(from: &mut Reader) -> Result<Self, AvroError> {
        match i64::read(from)? {
            0 => Ok(None),
            1 => T::read(from).map(Some),
            _ => Err(AvroError::Branch),
        }
    }
}

impl<T: Field> Field for Vec<T> {
    fn write(&self, out: &mut Vec<u8>) {
        if !self.is_empty() {
            (self.len() as i64).write(out);
            self.iter().for_each(|item| item.write(out));
        }
        0i64.write(out);
    }

    fn room(&self) -> usize {
        11 + self.iter().map(Field::room).sum::<usize>()
    }

    fn read(from: &mut Reader) -> Result<Self, AvroError> {
        let mut items = Self::new();
        loop {
            let mut count = i64::read(from)?;
            if count < 0 {
                // A negative count announces the block's size in bytes, which is of no use here.
                i64::read(from)?;
                count = count.checked_neg().ok_or(AvroError::Number)?;
            }
            let count = usize::try_from(count).map_err(|_| AvroError::Number)?;
            if count == 0 {
                return Ok(items);
            }
            // Every item of every schema here takes at least one byte.
            if count > from.rest.len() {
                return Err(AvroError::Short);
            }
            for _ in 0..count {
                items.push(T::read(from)?);
            }
        }
    }
}

/// Declares a record: its struct, and its Avro form, which is its fields in their order.
macro_rules! record {
    ($(#[$meta:meta])* $name:ident $(: $schema:literal)? { $($(#[$doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq)]
        pub struct $name { $($(#[$doc])* pub $field: $type,)* }

        impl $crate::avro::Field for $name {
            fn write(&self, out: &mut Vec<u8>) {
                $($crate::avro::Field::write(&self.$field, out);)*
            }
            fn room(&self) -> usize {
                0 $(+ $crate::avro::Field::room(&self.$field))*
            }
            fn read(from: &mut $crate::avro::Reader) -> Result<Self, $crate::avro::AvroError> {
                Ok(Self { $($field: $crate::avro::Field::read(from)?,)* })
            }
        }

        $(impl $crate::avro::Record for $name {
            const NAME: &'static str = $schema;
            const SCHEMA: &'static str = include_str!(concat!("../avro/", $schema, ".avsc"));
        })?
    };
}

/// Declares an Avro enum whose symbols are the variants in upper snake case, in their order.
macro_rules! symbols {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $symbol:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// Every value, in the order of the schema.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The symbol that stands in the schema.
            #[must_use]
            pub fn symbol(self) -> &'static str {
                match self { $(Self::$variant => $symbol,)* }
            }
        }

        impl $crate::avro::Field for $name {
            fn write(&self, out: &mut Vec<u8>) {
                (*self as i64).write(out);
            }
            fn read(from: &mut $crate::avro::Reader) -> Result<Self, $crate::avro::AvroError> {
                let index = usize::try_from(i64::read(from)?).map_err(|_| $crate::avro::AvroError::Branch)?;
                Self::ALL.get(index).copied().ok_or($crate::avro::AvroError::Branch)
            }
        }
    };
}

pub(crate) use {record, symbols};

use crate::{country::Country, time::Millis};

impl Field for Country {
    fn write(&self, out: &mut Vec<u8>) {
        2i64.write(out);
        out.extend_from_slice(self.as_str().as_bytes());
    }

    fn read(from: &mut Reader) -> Result<Self, AvroError> {
        String::read(from)?.parse().map_err(|_| AvroError::Text("not a country code"))
    }
}

impl Field for Millis {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
    }

    fn read(from: &mut Reader) -> Result<Self, AvroError> {
        i64::read(from).map(Millis)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back(n: i64) {
            let mut out = Vec::new();
            n.write(&mut out);
            prop_assert_eq!(i64::read(&mut Reader { rest: out.into() }), Ok(n));
        }

        #[test]
        fn no_bytes_panic_or_ask_for_memory(bytes: Vec<u8>) {
            let _ = Vec::<String>::read(&mut Reader { rest: bytes.clone().into() });
            let _ = Vec::<Option<[u8; 4]>>::read(&mut Reader { rest: bytes.into() });
        }
    }
}
