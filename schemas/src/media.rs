//! Media types as the headers `Content-Type` and `Accept` write them.

use crate::efgs::Encoding;

/// Every media type that is taken and served, as `Accept` says it.
pub const ACCEPTED: &str = "application/json; version=1.0, application/protobuf; version=1.0";

/// A media type with its parameters, `application/protobuf; version=1.0`. Only the name is judged here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaType<'a> {
    /// In lower case, without parameters.
    pub name: String,
    parameters: &'a str,
}

impl<'a> MediaType<'a> {
    /// Takes a header's value, or one of the parts of `Accept`, apart.
    #[must_use]
    pub fn of(text: &'a str) -> Self {
        let (name, parameters) = text.split_once(';').unwrap_or((text, ""));
        Self { name: name.trim().to_ascii_lowercase(), parameters }
    }

    /// The encoding that it names, whatever its version.
    #[must_use]
    pub fn encoding(&self) -> Option<Encoding> {
        match self.name.as_str() {
            "application/protobuf" => Some(Encoding::Protobuf),
            "application/json" => Some(Encoding::Json),
            _ => None,
        }
    }

    /// The first parameter of this name, in whatever case, without quotes.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&'a str> {
        let pairs = self.parameters.split(';').filter_map(|p| p.split_once('='));
        let mut values = pairs.filter(|(n, _)| n.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value);
        values.next().map(|value| value.trim().trim_matches('"'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_parameters_in_any_form() {
        let media = MediaType::of(" Application/JSON ; charset=utf-8;Version = \"1.0\" ; q=0.5");
        assert_eq!((media.name.as_str(), media.encoding()), ("application/json", Some(Encoding::Json)));
        assert_eq!((media.parameter("version"), media.parameter("q")), (Some("1.0"), Some("0.5")));
        assert_eq!((media.parameter("charset"), media.parameter("level")), (Some("utf-8"), None));
        for other in ["", "*/*", "application/x-protobuf", "application/protobuf x"] {
            assert_eq!(MediaType::of(other).encoding(), None, "{other}");
        }
    }

    #[test]
    fn what_is_said_to_be_accepted_is() {
        for part in ACCEPTED.split(", ") {
            let media = MediaType::of(part);
            assert_eq!(media.encoding().map(Encoding::content_type), Some(part));
        }
    }
}
