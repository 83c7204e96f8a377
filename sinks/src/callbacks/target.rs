//! Callback ids and the addresses to call, as far as they can be judged by themselves. Pure.

use std::{fmt, str::FromStr};

use keyferry_runtime::{http::Code, outbound::Url};

use crate::tag::BatchTag;

/// The longest id, in bytes.
pub(crate) const MAX_ID_BYTES: usize = 64;
/// The longest address, in bytes.
pub(crate) const MAX_URL_BYTES: usize = 512;

/// What a member calls one of its subscriptions: 1 to 64 characters that stand for themselves in a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CallbackId(String);

/// The text is no such id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadId;

impl CallbackId {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CallbackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for CallbackId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        // Without a slash in it, so that what is derived from an id is the id of nothing.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        let fits = (1..=MAX_ID_BYTES).contains(&text.len()) && text.bytes().all(plain);
        if fits { Ok(Self(text.to_owned())) } else { Err(BadId) }
    }
}

/// An address to call. Its `Debug` shows the host only: some put a secret into the path.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Target {
    given: String,
    url: Url,
}

/// Why an address is none that is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadTarget {
    #[error("the address is longer than {MAX_URL_BYTES} bytes")]
    TooLong,
    #[error("the address is no absolute one in visible ASCII, such as https://backend.example/new-batch")]
    Malformed,
    #[error("the address is not https, and nothing else is called")]
    NotHttps,
    #[error("the address names a user or password; the caller is known by its certificate")]
    UserInfo,
    #[error("the address has a query; batchTag and date are what is put there")]
    Query,
    #[error("the address has a fragment, which no server ever sees")]
    Fragment,
}

impl BadTarget {
    /// The stable code.
    pub(crate) fn code(self) -> Code {
        match self {
            Self::TooLong => Code::CallbackUrlTooLong,
            Self::Malformed => Code::CallbackUrlMalformed,
            Self::NotHttps => Code::CallbackUrlNotHttps,
            Self::UserInfo => Code::CallbackUrlUserinfo,
            Self::Query => Code::CallbackUrlQuery,
            Self::Fragment => Code::CallbackUrlFragment,
        }
    }
}

impl Target {
    /// As it was given.
    pub(crate) fn as_given(&self) -> &str {
        &self.given
    }

    /// As it is called, without the query.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// The host: a name in lower case, or an address without brackets.
    pub(crate) fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    /// The address to call for a batch.
    pub(crate) fn for_batch(&self, tag: BatchTag) -> Url {
        let mut url = self.url.clone();
        let (tag, date) = (tag.to_string(), tag.date().to_string());
        url.query_pairs_mut().append_pair("batchTag", &tag).append_pair("date", &date);
        url
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({})", self.host())
    }
}

impl FromStr for Target {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, BadTarget> {
        if text.len() > MAX_URL_BYTES {
            return Err(BadTarget::TooLong);
        }
        // A parser of addresses drops blanks and line ends; what is listed is to be what is called.
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(BadTarget::Malformed);
        }
        let url = Url::parse(text).map_err(|_| BadTarget::Malformed)?;
        if url.scheme() != "https" {
            return Err(BadTarget::NotHttps);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(BadTarget::UserInfo);
        }
        if url.fragment().is_some() {
            return Err(BadTarget::Fragment);
        }
        if url.query().is_some() {
            return Err(BadTarget::Query);
        }
        if url.host_str().is_none() || url.port() == Some(0) {
            return Err(BadTarget::Malformed);
        }
        Ok(Self { given: text.to_owned(), url })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stand_for_themselves_in_a_path() {
        for good in ["a", "A-z_0.9~", &"x".repeat(MAX_ID_BYTES)] {
            assert_eq!(good.parse::<CallbackId>().unwrap().as_str(), good);
        }
        let long = "x".repeat(MAX_ID_BYTES + 1);
        for bad in ["", "a/b", "a b", "ä", "a%20", "a\n", "a/progress", long.as_str()] {
            assert_eq!(bad.parse::<CallbackId>(), Err(BadId), "{bad:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_an_address_is_said() {
        let long = format!("https://a.example/{}", "x".repeat(MAX_URL_BYTES));
        let table = [
            (long.as_str(), BadTarget::TooLong),
            ("", BadTarget::Malformed),
            ("a.example", BadTarget::Malformed),
            ("/new-batch", BadTarget::Malformed),
            ("https://", BadTarget::Malformed),
            ("https:///", BadTarget::Malformed),
            ("https://a.example:0/", BadTarget::Malformed),
            ("https://a.example:65536/", BadTarget::Malformed),
            ("https://a.exa\nmple/", BadTarget::Malformed),
            (" https://a.example/", BadTarget::Malformed),
            ("https://ä.example/", BadTarget::Malformed),
            ("http://a.example/", BadTarget::NotHttps),
            ("ftp://a.example/", BadTarget::NotHttps),
            ("file:///etc/passwd", BadTarget::NotHttps),
            ("https://user@a.example/", BadTarget::UserInfo),
            ("https://user:word@a.example/", BadTarget::UserInfo),
            ("https://:word@a.example/", BadTarget::UserInfo),
            ("https://a.example/?", BadTarget::Query),
            ("https://a.example/p?x=1", BadTarget::Query),
            ("https://a.example/#", BadTarget::Fragment),
            ("https://a.example/p#top", BadTarget::Fragment),
        ];
        let mut codes = std::collections::BTreeSet::new();
        for (text, why) in table {
            assert_eq!(text.parse::<Target>().err(), Some(why), "{text}");
            codes.insert(why.code().as_str());
        }
        assert_eq!(codes.len(), 6, "each has its own code");
    }

    #[test]
    fn a_batch_is_named_in_the_query_and_nothing_else_changes() {
        let tag: BatchTag = "20201023-7".parse().unwrap();
        for (given, host, called) in [
            (
                "https://A.example:8443/new%20batch",
                "a.example",
                "https://a.example:8443/new%20batch?batchTag=20201023-7&date=2020-10-23",
            ),
            ("https://a.example", "a.example", "https://a.example/?batchTag=20201023-7&date=2020-10-23"),
            ("https://[2A00::1]/x", "2a00::1", "https://[2a00::1]/x?batchTag=20201023-7&date=2020-10-23"),
            ("https://0x7f.1/", "127.0.0.1", "https://127.0.0.1/?batchTag=20201023-7&date=2020-10-23"),
        ] {
            let target: Target = given.parse().unwrap();
            assert_eq!((target.as_given(), target.host()), (given, host));
            assert_eq!(target.for_batch(tag).as_str(), called);
        }
    }
}
