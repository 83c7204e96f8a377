//! Country codes: two letters of ISO 3166 alpha-2, kept as sent and compared by alias elsewhere.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A well-formed country code: exactly two letters `A` to `Z`. That it names a member is a question for the network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Country([u8; 2]);

/// The text is not two letters `A` to `Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a country code is two letters A to Z, such as DE")]
pub struct BadCountry;

impl Country {
    /// Stands where no country stands yet.
    pub(crate) const BLANK: Self = Self(*b"AA");

    /// How many codes there can be.
    pub const COUNT: usize = 26 * 26;

    /// Its number among all codes in the order of the alphabet, from 0, for tables.
    #[must_use]
    pub fn number(self) -> usize {
        let [a, b] = self.0.map(|letter| usize::from(letter - b'A'));
        a * 26 + b
    }

    /// The two letters.
    #[must_use]
    pub fn bytes(self) -> [u8; 2] {
        self.0
    }

    /// The code in upper case, as it stands on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Only ASCII letters are ever stored, so this can not fail.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The code in lower case, as it stands in topic names.
    #[must_use]
    pub fn lower(&self) -> String {
        self.as_str().to_ascii_lowercase()
    }

    /// Reads the lower-case form of a topic name.
    ///
    /// # Errors
    /// [`BadCountry`] unless it is two letters `a` to `z`.
    pub fn from_lower(text: &str) -> Result<Self, BadCountry> {
        if text.bytes().all(|b| b.is_ascii_lowercase()) {
            text.to_ascii_uppercase().parse()
        } else {
            Err(BadCountry)
        }
    }
}

impl FromStr for Country {
    type Err = BadCountry;

    fn from_str(text: &str) -> Result<Self, BadCountry> {
        match *text.as_bytes() {
            [a, b] if a.is_ascii_uppercase() && b.is_ascii_uppercase() => Ok(Self([a, b])),
            _ => Err(BadCountry),
        }
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Country {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Country {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_capital_letters_are_a_country() {
        assert_eq!("DE".parse::<Country>().unwrap().lower(), "de");
        for bad in ["", "D", "de", "DEU", "D1", "DE,FR", "Ä", "D\0"] {
            assert_eq!(bad.parse::<Country>(), Err(BadCountry), "{bad:?}");
        }
        assert_eq!(Country::from_lower("fr").unwrap().as_str(), "FR");
        assert!(Country::from_lower("FR").is_err());
    }

    #[test]
    fn every_code_has_a_number_of_its_own() {
        let letters = || (b'A'..=b'Z').map(char::from);
        let codes = letters().flat_map(|a| letters().map(move |b| format!("{a}{b}")));
        let numbers = codes.map(|code| code.parse::<Country>().unwrap().number());
        assert!(numbers.eq(0..Country::COUNT));
    }
}
