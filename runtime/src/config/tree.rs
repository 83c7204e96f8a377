//! The YAML of a configuration as a tree in which every value still knows where it came from.
//!
//! A scalar stays text until the field that takes it says what it is, so that the country `NO` and the password
//! `0123` are strings without quotes, and what an environment variable says needs no quoting at all.

use std::{collections::HashSet, fmt};

use serde_saphyr::granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Line and column of the file, both from 1.
    File(usize, usize),
    /// An environment variable.
    Variable(String),
}

impl From<&Marker> for Place {
    fn from(marker: &Marker) -> Self {
        Self::File(marker.line(), marker.col() + 1)
    }
}

/// A value with its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) content: Content,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// Text; `plain` if it stood without quotes.
    Scalar { text: String, plain: bool },
    /// `- a`
    Sequence(Vec<Node>),
    /// `a: b`
    Mapping(Vec<Entry>),
}

/// One field of a mapping.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) value: Node,
}

/// The file is not YAML of the kind that is read here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Syntax {
    pub(super) place: Place,
    pub(super) what: String,
}

impl Syntax {
    fn new(at: &Marker, what: impl fmt::Display) -> Self {
        Self { place: at.into(), what: what.to_string() }
    }
}

impl From<ScanError> for Syntax {
    fn from(error: ScanError) -> Self {
        Self::new(error.marker(), error.info())
    }
}

impl Node {
    /// Reads one YAML document. An empty one is an empty mapping. Aliases, tags and repeated fields are refused: in a
    /// file this small they are mistakes.
    pub(super) fn parse(yaml: &str) -> Result<Self, Syntax> {
        let mut events = Events(Parser::new_from_str(yaml));
        let mut document = None;
        while let Some((event, at)) = events.next()? {
            match event {
                Event::StreamStart | Event::StreamEnd | Event::DocumentStart(..) | Event::DocumentEnd => (),
                _ if document.is_some() => return Err(Syntax::new(&at, "a second document")),
                event => document = Some(events.node(event, &at)?),
            }
        }
        Ok(document.unwrap_or(Self { place: Place::File(1, 1), content: Content::Mapping(Vec::new()) }))
    }

    /// Whether nothing stands here (`field:` or `field: null`).
    pub(super) fn is_null(&self) -> bool {
        // A variable that says "null" may be a password.
        let ours = matches!(self.place, Place::File(..));
        matches!(&self.content, Content::Scalar { text, plain: true } if ours && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }
}

struct Events<'a>(Parser<'a, serde_saphyr::granit_parser::StrInput<'a>>);

impl<'a> Events<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Marker)>, Syntax> {
        loop {
            match self.0.next().transpose()? {
                Some((Event::Comment(..), _)) => (),
                Some((event, span)) => return Ok(Some((event, span.start))),
                None => return Ok(None),
            }
        }
    }

    fn inside(&mut self, begun: &Marker) -> Result<(Event<'a>, Marker), Syntax> {
        self.next()?.ok_or_else(|| Syntax::new(begun, "is not finished"))
    }

    fn node(&mut self, event: Event<'a>, at: &Marker) -> Result<Node, Syntax> {
        let content = match event {
            Event::Scalar(.., Some(tag))
            | Event::SequenceStart(.., Some(tag))
            | Event::MappingStart(.., Some(tag)) => {
                return Err(Syntax::new(at, format_args!("the tag {tag} is not used in configurations")));
            }
            Event::Scalar(text, style, ..) => {
                Content::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain }
            }
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.inside(at)? {
                        (Event::SequenceEnd, _) => break Content::Sequence(items),
                        (event, at) => items.push(self.node(event, &at)?),
                    }
                }
            }
            Event::MappingStart(..) => Content::Mapping(self.entries(at)?),
            _ => return Err(Syntax::new(at, "anchors and aliases are not used in configurations")),
        };
        Ok(Node { place: at.into(), content })
    }

    fn entries(&mut self, begun: &Marker) -> Result<Vec<Entry>, Syntax> {
        let mut names = HashSet::new();
        let mut entries = Vec::new();
        loop {
            let (name, at) = match self.inside(begun)? {
                (Event::MappingEnd, _) => return Ok(entries),
                (Event::Scalar(name, ..), at) => (name.into_owned(), at),
                (_, at) => return Err(Syntax::new(&at, "the name of a field is a plain word")),
            };
            if !names.insert(name.clone()) {
                return Err(Syntax::new(&at, format_args!("`{name}` stands here a second time")));
            }
            let (event, value_at) = self.inside(&at)?;
            entries.push(Entry { name, place: (&at).into(), value: self.node(event, &value_at)? });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_kept() {
        let Content::Mapping(root) = Node::parse("# why\na: 1\nb:\n  c: [x, 'y']\n").unwrap().content else {
            panic!()
        };
        assert_eq!((root[0].place.clone(), root[1].place.clone()), (Place::File(2, 1), Place::File(3, 1)));
        let Content::Mapping(b) = &root[1].value.content else { panic!() };
        let Content::Sequence(c) = &b[0].value.content else { panic!() };
        assert_eq!(c[1].place, Place::File(4, 10));
        assert!(matches!(&c[1].content, Content::Scalar { text, plain: false } if text == "y"));
    }

    #[test]
    fn what_is_refused_says_where() {
        let fault = |yaml: &str| {
            let Syntax { place, what } = Node::parse(yaml).unwrap_err();
            (place, what)
        };
        assert_eq!(fault("a: 1\na: 2\n"), (Place::File(2, 1), "`a` stands here a second time".into()));
        assert_eq!(fault("a: &x 1\nb: *x\n").0, Place::File(2, 4));
        assert_eq!(fault("a: 1\n---\nb: 2\n"), (Place::File(3, 1), "a second document".into()));
        assert_eq!(
            fault("a: !env B\n"),
            (Place::File(1, 9), "the tag !env is not used in configurations".into())
        );
        assert!(matches!(fault("a: [1, 2\nb: 3\n").0, Place::File(2, _)));
    }

    #[test]
    fn an_empty_file_is_an_empty_mapping() {
        assert!(matches!(Node::parse("# nothing\n").unwrap().content, Content::Mapping(m) if m.is_empty()));
    }
}
