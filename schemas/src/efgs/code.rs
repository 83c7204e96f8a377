//! Country codes as keys carry them. Nearly all are well-formed, and those take no memory of their own.

use std::{fmt, ops::Deref};

use crate::country::Country;

/// A country code as it was sent, well-formed or not.
#[derive(Clone, PartialEq, Eq)]
pub struct Code(Sent);

/// One form for each text: what is a country is never kept as a text.
#[derive(Clone, PartialEq, Eq)]
enum Sent {
    Country(Country),
    Text(Box<str>),
}

impl Code {
    /// The country, if the code is well-formed.
    #[must_use]
    pub fn country(&self) -> Option<Country> {
        match &self.0 {
            Sent::Country(country) => Some(*country),
            Sent::Text(_) => None,
        }
    }
}

impl Default for Code {
    fn default() -> Self {
        Self(Sent::Text(Box::default()))
    }
}

impl Deref for Code {
    type Target = str;

    fn deref(&self) -> &str {
        match &self.0 {
            Sent::Country(country) => country.as_str(),
            Sent::Text(text) => text,
        }
    }
}

impl From<&str> for Code {
    fn from(text: &str) -> Self {
        Self(text.parse().map_or_else(|_| Sent::Text(text.into()), Sent::Country))
    }
}

impl From<String> for Code {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl PartialEq<&str> for Code {
    fn eq(&self, text: &&str) -> bool {
        **self == **text
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// As many as fit beside their number into one cache line: every country of Europe's network, and some.
const FEW: usize = 31;

/// A list of country codes as it was sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Codes(List);

/// One form for each list: few countries are never kept as texts. Unused places are blank, so that lists compare.
#[derive(Clone, PartialEq, Eq)]
enum List {
    Few { len: u8, countries: [Country; FEW] },
    Any(Vec<Code>),
}

impl Codes {
    /// Number of codes.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            List::Few { len, .. } => usize::from(*len),
            List::Any(codes) => codes.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The codes in their order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let (few, any) = self.parts();
        few.iter().map(Country::as_str).chain(any.iter().map(|code| &**code))
    }

    /// The codes in their order, each as a country if it is well-formed.
    pub fn countries(&self) -> impl Iterator<Item = Option<Country>> {
        let (few, any) = self.parts();
        few.iter().copied().map(Some).chain(any.iter().map(Code::country))
    }

    /// The countries, where there are few and nothing else: nearly always.
    pub(crate) fn as_few(&self) -> Option<&[Country]> {
        match &self.0 {
            List::Few { len, countries } => Some(&countries[..usize::from(*len)]),
            List::Any(_) => None,
        }
    }

    /// Whether each is well-formed.
    #[must_use]
    pub fn are_countries(&self) -> bool {
        let (_, any) = self.parts();
        any.iter().all(|code| code.country().is_some())
    }

    /// Whether this very code is one of them.
    #[must_use]
    pub fn contains(&self, code: &str) -> bool {
        self.iter().any(|own| own == code)
    }

    /// Adds a code at the end.
    pub fn push(&mut self, code: Code) {
        match (&mut self.0, code.country()) {
            (List::Few { len, countries }, Some(country)) if usize::from(*len) < FEW => {
                countries[usize::from(*len)] = country;
                *len += 1;
            }
            (List::Any(codes), _) => codes.push(code),
            (List::Few { .. }, _) => {
                let (few, _) = self.parts();
                let codes = few.iter().map(|c| Code(Sent::Country(*c))).chain([code]).collect();
                self.0 = List::Any(codes);
            }
        }
    }

    /// One of the two is empty.
    fn parts(&self) -> (&[Country], &[Code]) {
        match &self.0 {
            List::Few { len, countries } => (&countries[..usize::from(*len)], &[]),
            List::Any(codes) => (&[], codes),
        }
    }
}

impl Default for Codes {
    fn default() -> Self {
        Self(List::Few { len: 0, countries: [Country::BLANK; FEW] })
    }
}

impl<C: Into<Code>> FromIterator<C> for Codes {
    fn from_iter<I: IntoIterator<Item = C>>(codes: I) -> Self {
        let mut all = Self::default();
        codes.into_iter().for_each(|code| all.push(code.into()));
        all
    }
}

impl<C: Into<Code>, const N: usize> From<[C; N]> for Codes {
    fn from(codes: [C; N]) -> Self {
        codes.into_iter().collect()
    }
}

impl fmt::Debug for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_list_is_the_texts_it_was_made_of(texts in prop::collection::vec("[A-F]{2}|.{0,3}", 0..70), other: bool) {
            let codes: Codes = texts.iter().map(String::as_str).collect();
            prop_assert!(codes.iter().eq(&texts));
            let well_formed: Vec<Option<Country>> = texts.iter().map(|t| t.parse().ok()).collect();
            prop_assert!(codes.countries().eq(well_formed.iter().copied()));
            prop_assert_eq!(codes.are_countries(), well_formed.iter().all(Option::is_some));
            prop_assert_eq!((codes.len(), codes.is_empty()), (texts.len(), texts.is_empty()));
            let mut texts = texts;
            if other {
                texts.push("ZZ".into());
            }
            prop_assert_eq!(codes == texts.into_iter().collect(), !other);
        }
    }

    #[test]
    fn few_and_many_countries_compare() {
        for n in [0, 1, FEW - 1, FEW, FEW + 1, 80] {
            let codes: Codes = vec!["DE"; n].into_iter().collect();
            let mut more = codes.clone();
            more.push("FR".into());
            assert!(more.contains("FR") && !codes.contains("FR") && more != codes);
            assert_eq!(more.countries().flatten().count(), n + 1);
        }
    }
}
