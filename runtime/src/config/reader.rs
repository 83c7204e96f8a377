//! The tree of a configuration as a serde deserializer: it notes every field that nobody took, and an error knows its
//! path and its place.

use std::{cell::RefCell, fmt};

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};

use super::{
    Fault,
    tree::{Content, Entry, Node, Place},
};

/// What ends the reading.
#[derive(Debug)]
pub(super) struct Stop {
    what: String,
    // A field below the place that serde knows: a missing one has no node of its own.
    missing: Option<&'static str>,
    at: Option<(String, Place)>,
}

impl Stop {
    fn at(mut self, path: &str, place: &Place) -> Self {
        self.at.get_or_insert_with(|| (join(path, self.missing.unwrap_or_default()), place.clone()));
        self
    }
}

impl From<Stop> for Fault {
    fn from(Stop { what, at, .. }: Stop) -> Self {
        let (path, place) = at.map_or((String::new(), None), |(path, place)| (path, Some(place)));
        Self::new(&path, what, place)
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Stop {}

impl serde::de::Error for Stop {
    fn custom<T: fmt::Display>(what: T) -> Self {
        Self { what: what.to_string(), missing: None, at: None }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { what: "is missing".into(), missing: Some(field), at: None }
    }
}

pub(super) fn join(path: &str, field: &str) -> String {
    let dot = if path.is_empty() || field.is_empty() { "" } else { "." };
    format!("{path}{dot}{field}")
}

/// A value that is about to be read.
pub(super) struct Reader<'a> {
    node: &'a Node,
    name_place: &'a Place,
    path: String,
    unknown: &'a RefCell<Vec<Fault>>,
}

impl<'a> Reader<'a> {
    /// Reads a whole file; the fields that nobody takes are added to `unknown`.
    pub(super) fn new(root: &'a Node, unknown: &'a RefCell<Vec<Fault>>) -> Self {
        Self { node: root, name_place: &root.place, path: String::new(), unknown }
    }

    fn below(&self, node: &'a Node, name_place: &'a Place, path: String) -> Self {
        Self { node, name_place, path, unknown: self.unknown }
    }

    fn unexpected(&self) -> Unexpected<'_> {
        match (&self.node.content, &self.node.place) {
            (Content::Sequence(_), _) => Unexpected::Seq,
            (Content::Mapping(_), _) => Unexpected::Map,
            _ if self.node.is_null() => Unexpected::Unit,
            // Secrets come this way; none may end up in a log for being in the wrong variable.
            (Content::Scalar { .. }, Place::Variable(_)) => Unexpected::Other("the text of the variable"),
            (Content::Scalar { text, .. }, Place::File(..)) => Unexpected::Str(text),
        }
    }

    fn wrong<'de, V: Visitor<'de>>(&self, visitor: &V) -> Stop {
        Stop::invalid_type(self.unexpected(), visitor).at(&self.path, &self.node.place)
    }

    fn plain(&self) -> Option<&'a str> {
        match &self.node.content {
            Content::Scalar { text, plain: true } => Some(text),
            _ => None,
        }
    }

    fn text(&self) -> Option<&'a str> {
        match &self.node.content {
            Content::Scalar { text, .. } if !self.node.is_null() => Some(text),
            _ => None,
        }
    }

    /// Notes a field that nobody took: by its variables, if it came from some.
    fn note(&self, node: &Node, name_place: &Place, path: String) {
        let add = |place: &Place| {
            let fault = Fault::new(&path, "is not a known field", Some(place.clone()));
            let mut unknown = self.unknown.borrow_mut();
            if !unknown.contains(&fault) {
                unknown.push(fault);
            }
        };
        if let Place::File(..) = name_place {
            add(name_place);
        }
        if let (Content::Scalar { .. }, Place::Variable(_)) = (&node.content, &node.place) {
            add(&node.place);
        }
        if let Content::Mapping(entries) = &node.content {
            for entry in entries.iter().filter(|e| matches!(e.place, Place::Variable(_))) {
                self.note(&entry.value, &entry.place, join(&path, &entry.name));
            }
        }
    }

    fn sequence<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        let parts: Vec<Node>;
        let items = match &self.node.content {
            Content::Sequence(items) => items,
            Content::Scalar { text, .. } if matches!(self.node.place, Place::Variable(_)) => {
                let part = |text: &str| Node {
                    place: self.node.place.clone(),
                    content: Content::Scalar { text: text.trim().into(), plain: true },
                };
                parts = text.split(',').map(part).collect();
                &parts
            }
            _ if self.node.is_null() => &Vec::new(),
            _ => return Err(self.wrong(&visitor)),
        };
        let items = Items { of: &self, next: 0, items };
        visitor.visit_seq(items).map_err(|e| e.at(&self.path, &self.node.place))
    }

    fn mapping<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        let entries: &[Entry] = match &self.node.content {
            Content::Mapping(entries) => entries,
            // A section with all its fields commented out is an empty section.
            _ if self.node.is_null() => &[],
            _ => return Err(self.wrong(&visitor)),
        };
        let fields = Fields { of: &self, entries: entries.iter(), value: None };
        visitor.visit_map(fields).map_err(|e| e.at(&self.path, &self.node.place))
    }
}

macro_rules! number {
    ($($method:ident $visit:ident $number:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
            match self.plain().and_then(|text| text.parse::<$number>().ok()) {
                Some(number) => visitor.$visit(number).map_err(|e: Stop| e.at(&self.path, &self.node.place)),
                None => Err(self.wrong(&visitor)),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Stop;

    number! {
        deserialize_bool visit_bool bool,
        deserialize_i8 visit_i64 i64, deserialize_i16 visit_i64 i64, deserialize_i32 visit_i64 i64, deserialize_i64 visit_i64 i64,
        deserialize_u8 visit_u64 u64, deserialize_u16 visit_u64 u64, deserialize_u32 visit_u64 u64, deserialize_u64 visit_u64 u64,
        deserialize_f32 visit_f64 f64, deserialize_f64 visit_f64 f64
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        let plain = self.plain().unwrap_or_default();
        match &self.node.content {
            Content::Sequence(_) => self.sequence(visitor),
            Content::Mapping(_) => self.mapping(visitor),
            _ if self.node.is_null() => visitor.visit_unit(),
            _ if matches!(plain, "true" | "false") => self.deserialize_bool(visitor),
            _ if plain.parse::<u64>().is_ok() => self.deserialize_u64(visitor),
            _ if plain.parse::<i64>().is_ok() => self.deserialize_i64(visitor),
            _ if plain.starts_with(|c: char| c.is_ascii_digit() || c == '-')
                && plain.parse::<f64>().is_ok() =>
            {
                self.deserialize_f64(visitor)
            }
            Content::Scalar { .. } => self.deserialize_str(visitor),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match self.text() {
            Some(text) => visitor.visit_str(text).map_err(|e: Stop| e.at(&self.path, &self.node.place)),
            None => Err(self.wrong(&visitor)),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        if self.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.sequence(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Stop> {
        self.sequence(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        self.sequence(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.mapping(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        self.mapping(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        let (path, place) = (self.path.clone(), self.node.place.clone());
        let variant = match &self.node.content {
            Content::Mapping(entries) if entries.len() == 1 => Variant { of: &self, entry: entries.first() },
            Content::Scalar { .. } if self.text().is_some() => Variant { of: &self, entry: None },
            _ => return Err(self.wrong(&visitor)),
        };
        visitor.visit_enum(variant).map_err(|e| e.at(&path, &place))
    }

    /// Derived code comes here for a field that the struct does not have.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.note(self.node, self.name_place, self.path.clone());
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! { i128 u128 char bytes byte_buf unit unit_struct identifier }
}

struct Items<'a, 'r> {
    of: &'r Reader<'a>,
    next: usize,
    items: &'r [Node],
}

impl<'de> SeqAccess<'de> for Items<'_, '_> {
    type Error = Stop;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Stop> {
        let Some(node) = self.items.get(self.next) else { return Ok(None) };
        let path = format!("{}[{}]", self.of.path, self.next);
        self.next += 1;
        let reader = Reader { node, name_place: &node.place, path: path.clone(), unknown: self.of.unknown };
        seed.deserialize(reader).map(Some).map_err(|e| e.at(&path, &node.place))
    }
}

struct Fields<'a, 'r> {
    of: &'r Reader<'a>,
    entries: std::slice::Iter<'a, Entry>,
    value: Option<&'a Entry>,
}

impl<'de> MapAccess<'de> for Fields<'_, '_> {
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Stop> {
        self.value = self.entries.next();
        let Some(entry) = self.value else { return Ok(None) };
        let name = seed.deserialize(entry.name.as_str().into_deserializer());
        name.map(Some).map_err(|e: Stop| e.at(&join(&self.of.path, &entry.name), &entry.place))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Stop> {
        let entry = self.value.take().ok_or_else(|| Stop::custom("a value without a name"))?;
        let path = join(&self.of.path, &entry.name);
        let reader = self.of.below(&entry.value, &entry.place, path.clone());
        seed.deserialize(reader).map_err(|e| e.at(&path, &entry.value.place))
    }
}

/// `variant` or `variant: {...}`
struct Variant<'a, 'r> {
    of: &'r Reader<'a>,
    entry: Option<&'a Entry>,
}

impl<'a> Variant<'a, '_> {
    fn content(self) -> Result<Reader<'a>, Stop> {
        let entry = self.entry.ok_or_else(|| Stop::custom("needs the fields of this choice below it"))?;
        Ok(self.of.below(&entry.value, &entry.place, join(&self.of.path, &entry.name)))
    }
}

impl<'de> EnumAccess<'de> for Variant<'_, '_> {
    type Error = Stop;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Stop> {
        let name = self.entry.map_or(self.of.text(), |e| Some(e.name.as_str())).unwrap_or_default();
        let known = seed.deserialize(name.into_deserializer())?;
        Ok((known, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, '_> {
    type Error = Stop;

    fn unit_variant(self) -> Result<(), Stop> {
        match self.entry {
            Some(entry) if !entry.value.is_null() => Err(Stop::custom("this choice has no fields")),
            _ => Ok(()),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Stop> {
        seed.deserialize(self.content()?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Stop> {
        self.content()?.sequence(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        self.content()?.mapping(visitor)
    }
}
